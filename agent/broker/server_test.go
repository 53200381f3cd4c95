//go:build linux

package broker

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
)

// TestListen takes the place of what an earlier broker left, and touches nothing that
// its name leads to.
func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "broker.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as one that was killed
	l.Close()
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if l, err = Listen(path); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o660 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		l.Close()
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is left behind: %v", err)
		}
		if err := os.Symlink(other, path); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Lstat(other); err != nil || info.Mode() != 0o400 {
		t.Errorf("what a link led to: %v, %v", info.Mode(), err)
	}
	if _, err := Listen(filepath.Join(dir, "none", "broker.sock")); err == nil || !strings.Contains(err.Error(), "--socket") {
		t.Errorf("no directory: %v", err)
	}
}

// TestLinger answers an agent that drains, and ends with it.
func TestLinger(t *testing.T) {
	s, err := New(Config{Pods: &reach.Local{Source: reachtest.NewPods(web()), Dialer: reachtest.DialHome()}, UID: os.Geteuid(), Linger: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "broker.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	leave, left := context.WithCancel(t.Context())
	c := NewClient(ClientConfig{Socket: path})
	gone := make(chan error, 1)
	go func() { gone <- c.Run(leave) }()
	eventually(t, "the broker is followed", func() bool { return c.Away() == nil })
	cancel()
	for range 3 {
		if _, _, err := c.Find(t.Context(), "uid-1", 80); err != nil {
			t.Errorf("after the end of the context: %v", err)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("it has ended: %v", err)
	default:
	}
	left()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	if _, _, err := c.Find(t.Context(), "uid-1", 80); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a client that has ended: %v", err)
	}
}

// failing is a source that gives up.
type failing struct{ *reachtest.Pods }

func (failing) Run(context.Context) error { return errors.New("no more pods") }

func TestSourceFails(t *testing.T) {
	s, err := New(Config{Pods: &reach.Local{Source: failing{reachtest.NewPods()}, Dialer: reachtest.DialHome()}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(filepath.Join(t.TempDir(), "broker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), "no more pods") {
		t.Errorf("Serve: %v", err)
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"nothing":   {},
		"no source": {Pods: &reach.Local{Dialer: reachtest.DialHome()}},
		"no dialer": {Pods: &reach.Local{Source: reachtest.NewPods()}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
