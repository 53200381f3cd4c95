//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeTB records what the lab does with a test.
type fakeTB struct {
	name     string
	failed   bool
	cleanups []func()
}

func (f *fakeTB) Helper()                   {}
func (f *fakeTB) Name() string              { return f.name }
func (f *fakeTB) Cleanup(fn func())         { f.cleanups = append(f.cleanups, fn) }
func (f *fakeTB) Failed() bool              { return f.failed }
func (f *fakeTB) Errorf(string, ...any)     { f.failed = true }
func (f *fakeTB) Fatalf(s string, a ...any) { panic(fmt.Sprintf(s, a...)) }
func (f *fakeTB) Skipf(s string, a ...any)  { panic(fmt.Sprintf(s, a...)) }
func (f *fakeTB) Logf(string, ...any)       {}

func TestArtifacts(t *testing.T) {
	for _, failed := range []bool{false, true} {
		fake := &fakeTB{name: t.Name() + "/a strange name: " + fmt.Sprint(failed)}
		dir := Artifacts(fake)
		if parent := filepath.Base(filepath.Dir(dir)); parent != "artifacts" || strings.Contains(dir, " ") {
			t.Errorf("directory %s", dir)
		}
		if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		fake.failed = failed
		for _, fn := range fake.cleanups {
			fn()
		}
		if _, err := os.Stat(filepath.Join(dir, "x")); failed == errors.Is(err, os.ErrNotExist) {
			t.Errorf("failed %v: %v", failed, err)
		}
		if fake.failed != failed {
			t.Error("cleaning up failed")
		}
		os.RemoveAll(dir)
	}
}

func TestComplaints(t *testing.T) {
	for text, complains := range map[string]bool{
		"":                                       false,
		"12:00:00 err all is well\n":             false,
		"12:00:00 out panic: says the pod\n":     false,
		"12:00:00 err panic: boom\n":             true,
		"12:00:00 err fatal error: all asleep\n": true,
		"12:00:00 err WARNING: DATA RACE\n":      true,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "1.log"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Complaints(dir); (err != nil) != complains {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestHTTPGet(t *testing.T) {
	h := ForTest(t, "h").Host("h")
	ln, err := h.Listen("127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, r.URL.Path)
	})}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(ln) }()
	defer func() { server.Close(); <-done }()
	status, body, err := h.HTTPGet(t.Context(), "http://127.0.0.1:80/readyz")
	if err != nil || status != http.StatusTeapot || body != "/readyz" {
		t.Errorf("%d %q %v", status, body, err)
	}
	if _, _, err := h.HTTPGet(t.Context(), "http://127.0.0.1:81/"); err == nil {
		t.Error("nothing listens, and yet there was an answer")
	}
}

func TestDaemonThatNeverIsReady(t *testing.T) {
	h := ForTest(t, "h").Host("h")
	d := &daemon{Host: h, binary: "sh", args: []string{"-c", "echo bad flag >&2; exit 2"}, health: relayHealth}
	if err := d.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "bad flag") {
		t.Errorf("a daemon that ends at once: %v", err)
	}
	d.args = []string{"-c", "exec sleep 60"}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := d.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a daemon that says nothing: %v", err)
	}
	d.Process.Kill()
}
