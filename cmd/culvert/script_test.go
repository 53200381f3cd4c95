package main

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-k8s/culvert/forward/client/relaytest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"culvert":                  main,
		"kubectl-culvert":          main,
		"kubectl_complete-culvert": main,
	})
}

// TestScript holds texts, tables and exit codes as a shell sees them. The
// scripts have a relay: its address and files are in the environment under
// names that culvert does not read by itself.
func TestScript(t *testing.T) {
	r := relaytest.Start(t)
	r.AddPod("default", "web", echoServer(t))
	r.AddPod("default", "idle", "127.0.0.1:1")
	r.AddPod("other", "db", "127.0.0.1:1")
	dir := relayFiles(t, r)
	kubeconfigs(t, r, dir)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // a race detector that waits at every exit
			e.Setenv("RELAY", r.Addr)
			e.Setenv("CA", filepath.Join(dir, "ca.crt"))
			e.Setenv("PIN", r.Pin)
			e.Setenv("TOKEN", filepath.Join(dir, "token"))
			e.Setenv("CONFIGS", dir)
			for _, name := range []string{"kubeconfig", "kubeconfig-stranger", "kubeconfig-cert"} {
				b, err := os.ReadFile(filepath.Join(dir, name))
				if err == nil {
					err = os.WriteFile(filepath.Join(e.WorkDir, name), b, 0o600)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	})
}

// relayFiles writes what a person would have copied from the relay.
func relayFiles(t *testing.T, r *relaytest.Relay) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string][]byte{"ca.crt": r.CA, "token": []byte(relaytest.Token + "\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// echoServer answers with what it got once it got all of it.
func echoServer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				if b, err := io.ReadAll(c); err == nil {
					_, _ = c.Write(b)
				}
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); all.Wait() })
	return ln.Addr().String()
}

// culvert is the program inside the test.
func culvert(t *testing.T, r *relaytest.Relay, in io.ReadCloser, out io.WriteCloser, errs io.Writer) (run func(ctx context.Context, args ...string) int) {
	t.Helper()
	dir := relayFiles(t, r)
	env := map[string]string{
		"CULVERT_RELAY":        r.Addr,
		"CULVERT_RELAY_CA_PIN": r.Pin,
		"CULVERT_TOKEN_FILE":   filepath.Join(dir, "token"),
	}
	return func(ctx context.Context, args ...string) int {
		a := &app{
			name: "culvert", in: in, out: out, voice: &voice{w: errs},
			env:    func(key string) string { return env[key] },
			ignore: func() {},
		}
		return a.run(ctx, args)
	}
}
