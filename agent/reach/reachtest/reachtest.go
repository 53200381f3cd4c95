// Package reachtest has pods for tests of what reaches them: a source that a test
// fills, dialers that stay on this machine, and the pods' ends of connections.
package reachtest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
)

// patience bounds what should happen at once, on a machine that is busy.
const patience = 30 * time.Second

// Pods is a source of pods. Its fields are changed by Edit, or before it is used.
type Pods struct {
	// All is what there is.
	All []sandbox.Pod
	// LookupErr is what every Lookup fails with, NotReady what Ready says.
	LookupErr, NotReady error

	mu      sync.Mutex
	changed chan struct{}
}

var _ reach.Source = (*Pods)(nil)

// NewPods makes a source.
func NewPods(all ...sandbox.Pod) *Pods { return &Pods{All: all, changed: make(chan struct{}, 1)} }

// Edit changes the fields, and tells whoever follows.
func (p *Pods) Edit(f func()) {
	p.mu.Lock()
	f()
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Run implements reach.Source.
func (p *Pods) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// Lookup implements reach.Source.
func (p *Pods) Lookup(_ context.Context, uid string) (sandbox.Pod, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.LookupErr != nil {
		return sandbox.Pod{}, p.LookupErr
	}
	i := slices.IndexFunc(p.All, func(p sandbox.Pod) bool { return p.UID == uid })
	if i < 0 {
		return sandbox.Pod{}, fmt.Errorf("look up pod %q: %w", uid, sandbox.ErrNotFound)
	}
	return p.All[i], nil
}

// List implements reach.Source.
func (p *Pods) List() []sandbox.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.All)
}

// Changed implements reach.Source.
func (p *Pods) Changed() <-chan struct{} { return p.changed }

// Ready implements reach.Source.
func (p *Pods) Ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.NotReady
}

// DialFunc is a reach.Dialer.
type DialFunc func(ctx context.Context, pod sandbox.Pod, port uint16) (forward.Socket, error)

// DialPod implements reach.Dialer.
func (f DialFunc) DialPod(ctx context.Context, pod sandbox.Pod, port uint16) (forward.Socket, error) {
	return f(ctx, pod, port)
}

// DialTo reaches one address, whatever the pod and the port.
func DialTo(addr string) DialFunc {
	return func(ctx context.Context, _ sandbox.Pod, _ uint16) (forward.Socket, error) { return dial(ctx, addr) }
}

// DialHome reaches the port on this machine's localhost, whatever the pod.
func DialHome() DialFunc {
	return func(ctx context.Context, _ sandbox.Pod, port uint16) (forward.Socket, error) {
		return dial(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	}
}

func dial(ctx context.Context, addr string) (forward.Socket, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil //nolint:forcetypeassert // what a dial for TCP makes
}

// Listen is a service in a pod: a listener that is closed by the test's end.
func Listen(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// Accept takes the pod's end of a connection. It is closed by the test's end.
func Accept(t testing.TB, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	_ = l.SetDeadline(time.Now().Add(patience))
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// PortOf returns the port of a listener.
func PortOf(l *net.TCPListener) uint16 {
	return uint16(l.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // of a TCPListener
}
