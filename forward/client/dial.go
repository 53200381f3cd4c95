package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Open opens a stream to where the route leads without waiting for the answer:
// what is written goes along with the request, and a refusal is a *stream.Error
// from the first read. early, at most maxEarly bytes of it, is what there is to
// write already: it shares a packet with the request. While there is no session Open waits for one, WaitTimeout
// at most; then the error wraps [ErrOffline]. The caller ends the Conn.
//
// A stream that is refused although another place may take it (the route says
// so, the relay is going away, or the credential has run out) is opened again
// there, WaitTimeout after the first try at the latest.
func (c *Client) Open(ctx context.Context, r Route, early []byte) (forward.Conn, error) {
	first, err := c.open(ctx, r, early)
	if err != nil {
		return nil, err
	}
	return newAttempt(c, r, first, early), nil
}

// Dial is Open that waits until the pod has accepted the connection. A refusal
// is a *stream.Error in the chain.
func (c *Client) Dial(ctx context.Context, r Route) (forward.Conn, error) {
	first, err := c.open(ctx, r, nil)
	if err != nil {
		return nil, err
	}
	a := newAttempt(c, r, first, nil)
	if err := a.WaitReply(ctx); err != nil {
		_ = a.Reset(err) // the refusal is what matters
		return nil, fmt.Errorf("connect to %s: %w", a.cur.Load().target, err)
	}
	return a, nil
}

func (c *Client) open(ctx context.Context, r Route, early []byte) (*routed, error) {
	t, err := r.Next(ctx)
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, c.cfg.WaitTimeout)
	defer cancel()
	o := c.opening(t)
	for {
		l, err := c.current(wait)
		if err != nil {
			return nil, fmt.Errorf("connect to %s: %w", t, err)
		}
		conn, err := l.open(wait, o, early)
		if err == nil {
			return c.routed(conn, t, l), nil
		}
		if errors.Is(err, tunnel.ErrLost) {
			select {
			case <-l.Done(): // any moment now
			case <-wait.Done():
			}
		}
		// Nothing of this connection has been sent yet, so a session that
		// ended under it costs no more than another try.
		if wait.Err() != nil || !l.dead() {
			return nil, fmt.Errorf("connect to %s: %w", t, err)
		}
		c.forget(l)
	}
}

// openOn opens a stream on a session of the caller's choice.
func (c *Client) openOn(ctx context.Context, l *link, t Target) (*routed, error) {
	conn, err := l.open(ctx, c.opening(t), nil)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t, err)
	}
	return c.routed(conn, t, l), nil
}

func (c *Client) routed(conn conn, t Target, l *link) *routed {
	return &routed{conn: conn, target: t, link: l, leave: func() { c.retire(l, 0) }}
}

// forget takes a dead session out of use before Run has noticed its end. In a
// Client without Run it stays: its end is the answer to every later call.
func (c *Client) forget(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur == l && !c.once {
		c.cur = nil
		c.retired = append(c.retired, l)
	}
}

// routed is a stream that tells when the relay refused it for going away, so
// that the next one takes another way.
type routed struct {
	conn
	target Target
	link   *link
	leave  func()
}

func (r *routed) Read(p []byte) (int, error) {
	n, err := r.conn.Read(p)
	return n, r.seen(err)
}

// ReadLazy is Read without a buffer while there is nothing to read.
func (r *routed) ReadLazy(borrow func() []byte, release func()) (int, error) {
	return r.ReadPush(borrow, release, nil)
}

// ReadPush is ReadLazy that passes small answers on at once.
func (r *routed) ReadPush(borrow func() []byte, release func(), push func([]byte) int) (int, error) {
	n, err := r.conn.ReadPush(borrow, release, push)
	return n, r.seen(err)
}

// WaitReply waits for the relay's answer.
func (r *routed) WaitReply(ctx context.Context) error {
	return r.seen(r.conn.WaitReply(ctx))
}

func (r *routed) seen(err error) error {
	if err != nil && errors.Is(err, &stream.Error{Code: stream.GoingAway}) {
		r.leave()
	}
	return err
}
