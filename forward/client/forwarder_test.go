package client

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

type openFunc func(ctx context.Context, t Target) (forward.Conn, error)

func (f openFunc) Open(ctx context.Context, r Route, early []byte) (forward.Conn, error) {
	t, err := r.Next(ctx)
	if err != nil {
		return nil, err
	}
	c, err := f(ctx, t)
	if err == nil && len(early) > 0 {
		_, err = c.Write(early)
	}
	return c, err
}

// serve runs f on a free port and returns the way to it.
func serve(t *testing.T, f *Forwarder) (dial func() *net.TCPConn) {
	t.Helper()
	l, err := Listen([]string{"127.0.0.1"}, Ports{Remote: 80})
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addrs()[0].String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); f.Serve(ctx, []*Listener{l}) }()
	t.Cleanup(func() { cancel(); <-ended })
	return func() *net.TCPConn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.TCPConn)
	}
}

// echo is a pod that answers with what it got once it got all of it.
func echo(context.Context, Target) (forward.Conn, error) {
	ours, theirs := net.Pipe()
	up, down := io.Pipe()
	go func() {
		b, err := io.ReadAll(up)
		if err == nil {
			theirs.Write(b)
		}
		theirs.Close()
	}()
	return forward.Pipe(ours, down), nil
}

func TestForwarderKeepsHalfClose(t *testing.T) {
	dial := serve(t, &Forwarder{Opener: openFunc(echo), Failed: func(_ Ports, err error) { t.Error(err) }})
	c := dial()
	c.Write([]byte("question"))
	c.CloseWrite()
	b, err := io.ReadAll(c)
	if string(b) != "question" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestRefusedConnectionIsResetAlone(t *testing.T) {
	var listening atomic.Bool
	failed, dialed := make(chan error, 1), make(chan struct{})
	dial := serve(t, &Forwarder{
		Namespace: "ns", Pod: "web",
		Opener: openFunc(func(ctx context.Context, target Target) (forward.Conn, error) {
			if target != (Target{"ns", "web", 80}) {
				t.Errorf("target %v", target)
			}
			if !listening.Load() {
				<-dialed // a reset that comes earlier fails the dial itself
				return nil, &stream.Error{Code: stream.NotListening, Text: "nobody there"}
			}
			return echo(ctx, target)
		}),
		Failed: func(_ Ports, err error) { failed <- err },
	})
	c := dial()
	close(dialed)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read = %v, want a reset", err)
	}
	if err := <-failed; stream.CodeOf(err) != stream.NotListening {
		t.Errorf("reported %v", err)
	}
	listening.Store(true)
	c = dial()
	c.CloseWrite()
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("the next connection: %v", err)
	}
}

func TestLocalAbortIsNotReported(t *testing.T) {
	opened, broken := make(chan struct{}), make(chan struct{})
	dial := serve(t, &Forwarder{
		Opener: openFunc(func(context.Context, Target) (forward.Conn, error) {
			close(opened)
			r, w := io.Pipe()
			return forward.Pipe(r, closeHook{w, broken}), nil
		}),
		Failed: func(_ Ports, err error) { t.Errorf("reported %v", err) },
	})
	c := dial()
	<-opened // nothing is opened for a connection that has broken before
	c.SetLinger(0)
	c.Close()
	<-broken
}

// closeHook tells when it is closed.
type closeHook struct {
	io.WriteCloser
	closed chan struct{}
}

func (h closeHook) Close() error { close(h.closed); return h.WriteCloser.Close() }

func TestServeEndsWithConnectionsUnderWay(t *testing.T) {
	l, err := Listen([]string{"127.0.0.1"}, Ports{Remote: 80})
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan struct{})
	f := &Forwarder{
		Opener: openFunc(func(context.Context, Target) (forward.Conn, error) {
			r, w := io.Pipe()
			close(opened)
			return forward.Pipe(r, w), nil
		}),
		Failed: func(_ Ports, err error) { t.Errorf("reported %v", err) },
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); f.Serve(ctx, []*Listener{l}) }()
	c, err := net.Dial("tcp", l.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-opened
	cancel()
	<-ended
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read = %v, want a reset", err)
	}
}

// recorder is an Opener that says what came along with each request.
type recorder struct{ early chan string }

func (r recorder) Open(ctx context.Context, route Route, early []byte) (forward.Conn, error) {
	r.early <- string(early)
	return openFunc(echo).Open(ctx, route, early)
}

func TestFirstWordsGoWithTheRequest(t *testing.T) {
	l, err := Listen([]string{"127.0.0.1"}, Ports{Remote: 80})
	if err != nil {
		t.Fatal(err)
	}
	// It has spoken, and even finished, before it is accepted.
	c, err := net.Dial("tcp", l.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("question"))
	c.(*net.TCPConn).CloseWrite()
	r := recorder{make(chan string, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	f := &Forwarder{Opener: r, Failed: func(_ Ports, err error) { t.Error(err) }}
	go func() { defer close(ended); f.Serve(ctx, []*Listener{l}) }()
	defer func() { cancel(); <-ended }()
	if got := <-r.early; got != "question" {
		t.Errorf("%q came with the request", got)
	}
	if b, err := io.ReadAll(c); string(b) != "question" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
}

// Who says nothing is connected all the same, and who ends at once has an end.
func TestSilentProgramsAreConnected(t *testing.T) {
	r := recorder{make(chan string, 2)}
	dial := serve(t, &Forwarder{Opener: r, Failed: func(_ Ports, err error) { t.Error(err) }})
	silent := dial()
	if got := <-r.early; got != "" {
		t.Errorf("%q came from nobody", got)
	}
	done := dial()
	done.CloseWrite()
	if got := <-r.early; got != "" {
		t.Errorf("%q came with an end", got)
	}
	silent.Write([]byte("late"))
	silent.CloseWrite()
	for c, want := range map[*net.TCPConn]string{silent: "late", done: ""} {
		if b, err := io.ReadAll(c); string(b) != want || err != nil {
			t.Errorf("read %q, %v, want %q", b, err, want)
		}
	}
}

// A program that is gone before anybody looked costs no stream.
func TestBrokenOffBeforeTheRequest(t *testing.T) {
	l, err := Listen([]string{"127.0.0.1"}, Ports{Remote: 80})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := net.Dial("tcp", l.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	gone.(*net.TCPConn).SetLinger(0)
	gone.Close()
	r := recorder{make(chan string, 2)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	f := &Forwarder{Opener: r, Failed: func(_ Ports, err error) { t.Error(err) }}
	go func() { defer close(ended); f.Serve(ctx, []*Listener{l}) }()
	c, err := net.Dial("tcp", l.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	c.Write([]byte("second"))
	if got := <-r.early; got != "second" && got != "" {
		t.Errorf("%q came with the request of the second", got)
	}
	c.Close()
	cancel()
	<-ended
	if len(r.early) > 0 {
		t.Error("a stream was asked for on behalf of nobody")
	}
}
