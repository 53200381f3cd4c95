package client

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/culvert-k8s/culvert/forward"
)

// Opener opens a stream to where a route leads; a [*Client] is one.
type Opener interface {
	// Open is that of a Client. early is the caller's again when it returns.
	Open(ctx context.Context, r Route, early []byte) (forward.Conn, error)
}

// Forwarder carries the connections of local listeners to a pod. A connection
// that fails ends alone, and its local program sees a reset.
type Forwarder struct {
	// Opener makes the streams. Must not be nil.
	Opener Opener

	// Namespace and Pod name the pod. The port is the listener's.
	Namespace, Pod string

	// Route, if not nil, leads the connections of a listener in place of these.
	Route func(*Listener) Route

	// Joiner carries the bytes and may be shared. nil: one of its own.
	Joiner *forward.Joiner

	// Accepted, if not nil, is called with every connection before anything
	// else happens to it. Calls may overlap.
	Accepted func(Ports)

	// Failed, if not nil, hears why a connection did not end cleanly, except
	// when the local program broke it off or Serve was told to end. Calls may
	// overlap.
	Failed func(Ports, error)

	// Trouble, if not nil, hears why accepting stalls, once per row of
	// errors; accepting goes on by itself. Calls may overlap.
	Trouble func(Ports, error)

	words early
}

// Serve takes the listeners over and serves them until ctx ends; then the
// listeners are closed, connections under way are reset, and Serve returns
// when all have ended.
func (f *Forwarder) Serve(ctx context.Context, listeners []*Listener) {
	joiner := f.Joiner
	if joiner == nil {
		joiner = new(forward.Joiner)
	}
	var all sync.WaitGroup
	for _, l := range listeners {
		var trouble func(error)
		if f.Trouble != nil {
			trouble = func(err error) { f.Trouble(l.ports, err) }
		}
		all.Go(func() {
			l.serve(ctx, func(tc *net.TCPConn) { f.carry(ctx, joiner, l, tc) }, trouble)
		})
	}
	all.Wait()
}

func (f *Forwarder) carry(ctx context.Context, joiner *forward.Joiner, l *Listener, tc *net.TCPConn) {
	p := l.ports
	if f.Accepted != nil {
		f.Accepted(p)
	}
	local := forward.TCP(tc)
	var route Route = Target{Namespace: f.Namespace, Pod: f.Pod, Port: p.Remote}
	if f.Route != nil {
		route = f.Route(l)
	}
	remote, err := f.open(ctx, route, tc, local)
	if err != nil {
		_ = local.Reset(err) // it is gone either way
	} else {
		_, err = joiner.Join(ctx, local, remote, nil)
	}
	if err != nil && ctx.Err() == nil && f.Failed != nil && !brokenBy(tc, err) {
		f.Failed(p, err)
	}
}

// open opens a stream, with what the local program has said by then.
func (f *Forwarder) open(ctx context.Context, route Route, tc *net.TCPConn, local forward.Conn) (forward.Conn, error) {
	buf := f.words.borrow()
	defer f.words.release(buf)
	n, err := firstWords(tc, local, buf[:])
	if err != nil {
		return nil, err
	}
	return f.Opener.Open(ctx, route, buf[:n])
}

// brokenBy reports whether err came from the local connection. A program that
// drops its connection knows what it did.
func brokenBy(tc *net.TCPConn, err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Source != nil && op.Source.String() == tc.LocalAddr().String()
}
