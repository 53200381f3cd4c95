package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-k8s/culvert/forward/relay/standalone"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// call runs the program and returns what it says.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("KUBERNETES_SERVICE_HOST", "") // wherever the test runs
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	code = run(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	for name, tc := range map[string]struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		"version":              {[]string{"version"}, 0, "culvert-relay ", ""},
		"help":                 {[]string{"help"}, 0, "forget NODE", ""},
		"help of serve":        {[]string{"serve", "--help"}, 0, "-state-dir", ""},
		"help of forget":       {[]string{"forget", "-h"}, 0, "-state-dir", ""},
		"unknown command":      {[]string{"nonsense"}, 1, "", `unknown command "nonsense"`},
		"unknown flag":         {[]string{"--nonsense"}, 1, "", "nonsense"},
		"stray argument":       {[]string{"serve", "x", "--state-dir", state}, 1, "", `unexpected argument "x"`},
		"nothing at all":       {nil, 1, "", "agents could not prove who they are"},
		"no agents":            {[]string{"--client-ca", "x", "--tls-cert", "x", "--tls-key", "x"}, 1, "", "agents could not prove who they are"},
		"no certificate":       {[]string{"--agent-ca", "x", "--client-ca", "x"}, 1, "", "no certificate"},
		"no clients":           {[]string{"--agent-ca", "x", "--tls-cert", "x", "--tls-key", "x"}, 1, "", "clients could not prove"},
		"half a key pair":      {[]string{"--state-dir", state, "--tls-key", "x"}, 1, "", "belong together"},
		"advertise for nobody": {[]string{"--agent-ca", "x", "--client-ca", "x", "--tls-cert", "x", "--tls-key", "x", "--advertise", "y"}, 1, "", "--advertise"},
		"negative drain":       {[]string{"--state-dir", state, "--drain-timeout", "-1s"}, 1, "", "negative"},
		"log level":            {[]string{"--state-dir", state, "--log-level", "loud"}, 1, "", "loud"},
		"log format":           {[]string{"--state-dir", state, "--log-format", "xml"}, 1, "", "xml"},
		"profiles for all":     {[]string{"--state-dir", state, "--debug-listen", ":6060"}, 1, "", "not on loopback"},
		"missing agent ca":     {[]string{"--state-dir", state, "--agent-ca", "missing"}, 1, "", "missing"},
		"address in use":       {[]string{"--state-dir", state, "--listen", "256.0.0.1:1"}, 1, "", "256.0.0.1"},
		"bad advertise":        {[]string{"--state-dir", state, "--advertise", "a b"}, 1, "", "a b"},
		"forget nobody":        {[]string{"forget"}, 1, "", "needs the name of a node"},
		"forget two":           {[]string{"forget", "a", "b", "--state-dir", state}, 1, "", "unexpected argument"},
		"forget unknown":       {[]string{"forget", "a", "--state-dir", filepath.Join(state, "none")}, 1, "", "knows no node of that name"},
		"forget a path":        {[]string{"forget", "../../etc", "--state-dir", state}, 1, "", "node name"},
		"join without a state": {[]string{"join-command", "--state-dir", filepath.Join(state, "none")}, 1, "", "start the relay once"},
		"join from nowhere":    {[]string{"join-command"}, 1, "", "needs --state-dir"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := call(t, tc.args...)
			if code != tc.code || !strings.Contains(stdout, tc.stdout) || !strings.Contains(stderr, tc.stderr) {
				t.Errorf("exit code %d\nstdout: %s\nstderr: %s", code, stdout, stderr)
			}
			if n := strings.Count(stderr, "error:"); n != tc.code {
				t.Errorf("%d errors are printed: %s", n, stderr)
			}
		})
	}
}

// said is what a running relay writes.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *said) find(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		m := re.FindStringSubmatch(s.buf.String())
		s.mu.Unlock()
		if m != nil {
			return m[len(m)-1]
		}
	}
	t.Fatalf("no %s in %s", pattern, s.buf.String())
	return ""
}

func TestServe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	ctx, stop := context.WithCancel(t.Context())
	var log said
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"--state-dir", dir, "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0", "--drain-timeout", "0s"}, io.Discard, &log)
	}()
	log.find(t, `relay listens" addr=(127\.0\.0\.1:\d+)`)
	if health := log.find(t, `health listens" addr=(\S+)`); get(t, "http://"+health+"/readyz") != http.StatusOK {
		t.Error("not ready")
	}

	// Beside the running relay: how to join it, and what it forgets.
	exit, stdout, stderr := call(t, "join-command", "--state-dir", dir, "--advertise", "relay.example:7443")
	token, err := os.ReadFile(filepath.Join(dir, "join-token"))
	if err != nil {
		t.Fatal(err)
	}
	pin, err := os.ReadFile(filepath.Join(dir, "ca-pin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{string(token[:len(token)-1]), string(pin[:len(pin)-1]), "--relay relay.example:7443"} {
		if exit != 0 || !strings.Contains(stdout, want) {
			t.Errorf("exit code %d, no %q in %s%s", exit, want, stdout, stderr)
		}
	}
	if exit, _, stderr := call(t, "forget", "--state-dir", dir, "node-a"); exit != 1 || !strings.Contains(stderr, "knows no node") {
		t.Errorf("exit code %d, %s", exit, stderr)
	}
	record := `{"key":"sha256:` + strings.Repeat("00", 32) + `","joined":"2026-01-01T00:00:00Z"}`
	if err := identity.WriteFile(filepath.Join(dir, "nodes", "node-a"), []byte(record)); err != nil {
		t.Fatal(err)
	}
	if exit, stdout, stderr := call(t, "forget", "node-a", "--state-dir", dir); exit != 0 || !strings.Contains(stdout, "node-a is forgotten") {
		t.Errorf("exit code %d, %s%s", exit, stdout, stderr)
	}
	if exit, _, stderr := call(t, "--state-dir", dir, "--listen", "127.0.0.1:0", "--health-listen="); exit != 1 {
		t.Errorf("a second relay on one state: exit code %d, %s", exit, stderr)
	}

	stop()
	if c := <-code; c != 0 {
		t.Errorf("exit code %d: %s", c, log.buf.String())
	}
	if st, err := standalone.Open(standalone.Config{Dir: dir}); err != nil {
		t.Errorf("the state is not given back: %v", err)
	} else {
		_ = st.Close()
	}
}

func get(t *testing.T, url string) int {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// A relay whose health port is taken ends and says so.
func TestHealthPortIsTaken(t *testing.T) {
	code, _, stderr := call(t, "--state-dir", filepath.Join(t.TempDir(), "s"), "--listen", "127.0.0.1:0", "--health-listen", "256.0.0.1:1")
	if code != 1 || !strings.Contains(stderr, "serve health") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}
