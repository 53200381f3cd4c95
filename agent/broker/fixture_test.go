//go:build linux

package broker

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
)

// patience bounds what should happen at once, on a machine that is busy.
const patience = 30 * time.Second

// pods is a source of pods.
type pods struct {
	mu      sync.Mutex
	all     []sandbox.Pod
	err     error // of Lookup
	ready   error
	changed chan struct{}
}

func newPods(all ...sandbox.Pod) *pods { return &pods{all: all, changed: make(chan struct{}, 1)} }

func (p *pods) edit(f func()) {
	p.mu.Lock()
	f()
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *pods) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func (p *pods) Lookup(_ context.Context, uid string) (sandbox.Pod, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return sandbox.Pod{}, p.err
	}
	i := slices.IndexFunc(p.all, func(p sandbox.Pod) bool { return p.UID == uid })
	if i < 0 {
		return sandbox.Pod{}, fmt.Errorf("look up pod %q: %w", uid, sandbox.ErrNotFound)
	}
	return p.all[i], nil
}

func (p *pods) List() []sandbox.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.all)
}

func (p *pods) Changed() <-chan struct{} { return p.changed }

func (p *pods) Ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready
}

// web is a pod as its node knows it; a client is not told where its network is.
func web() sandbox.Pod {
	return sandbox.Pod{Namespace: "shop", Name: "web-0", UID: "uid-1", NetNS: "/run/netns/secret", Created: time.Unix(1700000000, 42).UTC()}
}

func told(p sandbox.Pod) sandbox.Pod {
	p.NetNS = ""
	return p
}

// dialFunc is a reach.Dialer.
type dialFunc func(ctx context.Context, pod sandbox.Pod, port uint16) (forward.Socket, error)

func (f dialFunc) DialPod(ctx context.Context, pod sandbox.Pod, port uint16) (forward.Socket, error) {
	return f(ctx, pod, port)
}

// dialHome reaches the port on this test's own localhost, whatever the pod.
var dialHome = dialFunc(func(ctx context.Context, _ sandbox.Pod, port uint16) (forward.Socket, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
})

// listen is a service of the pod.
func listen(t testing.TB) (l *net.TCPListener, port uint16) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, uint16(l.Addr().(*net.TCPAddr).Port)
}

func accept(t testing.TB, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	_ = l.SetDeadline(time.Now().Add(patience))
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
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
