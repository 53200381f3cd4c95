package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/client/relaytest"
)

// TestSignalsEndPortForward runs the real process: an interrupt is how a
// port-forward is meant to end, and a pipe that nobody reads is not.
func TestSignalsEndPortForward(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no signals to send on Windows")
	}
	r := relaytest.Start(t)
	r.AddPod("default", "web", echoServer(t))
	dir := relayFiles(t, r)
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "culvert", "port-forward", "web", ":80", "--address", "127.0.0.1",
				"--relay", r.Addr, "--relay-ca-pin", r.Pin, "--token-file", filepath.Join(dir, "token"))
			cmd.WaitDelay = 10 * time.Second
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			first, _ := bufio.NewReader(out).ReadString('\n')
			m := regexp.MustCompile(`^Forwarding from 127\.0\.0\.1:(\d+) -> 80\n$`).FindStringSubmatch(first)
			_ = out.Close()
			if m == nil {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				t.Fatalf("stdout %q, stderr:\n%s", first, &errs)
			}
			for range 3 { // each of them is announced to a closed pipe
				if got, err := ask(m[1], "question"); got != "question" || err != nil {
					t.Errorf("ask = %q, %v", got, err)
				}
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("after %v: %v, stderr:\n%s", sig, err, &errs)
			}
		})
	}
}
