//go:build linux

package broker

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/sandbox"
)

// patience bounds what should happen at once, on a machine that is busy.
const patience = 30 * time.Second

// web is a pod as its node knows it; a client is not told where its network is.
func web() sandbox.Pod {
	return sandbox.Pod{Namespace: "shop", Name: "web-0", UID: "uid-1", NetNS: "/run/netns/secret", Created: time.Unix(1700000000, 42).UTC()}
}

func told(p sandbox.Pod) sandbox.Pod {
	p.NetNS = ""
	return p
}

// running is a server that runs until its test ends or stop is called.
type running struct {
	*Server
	path string
	stop func() // and wait
}

// start runs a server for this user, on a socket of its own if path is empty.
func start(t testing.TB, path string, cfg Config) *running {
	t.Helper()
	if path == "" {
		path = filepath.Join(t.TempDir(), "broker.sock")
	}
	if cfg.UID == 0 {
		cfg.UID = os.Geteuid()
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	}()
	r := &running{Server: s, path: path}
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("the broker does not end")
		}
	})
	t.Cleanup(r.stop)
	return r
}

// follower runs a client until its test ends.
func follower(t testing.TB, c *Client) *Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

// connected returns a client that has heard of the broker.
func connected(t testing.TB, path string) *Client {
	t.Helper()
	c := follower(t, NewClient(ClientConfig{Socket: path}))
	eventually(t, "the broker is followed", func() bool { return c.Away() == nil })
	return c
}

// eventually waits for what happens in its own time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not so: %s", what)
		}
	}
}

// descriptors counts those of this process.
func descriptors(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
