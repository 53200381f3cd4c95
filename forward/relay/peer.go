package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// maxControls bounds the control streams of one session: gRPC holds several
// goroutines for each. An honest peer has one, two while it replaces it.
const maxControls = 8

var (
	errSilent = errors.New("agent did not register in time")
	errLeft   = errors.New("agent has what it came for, or takes its registration back")
)

// peer is an authenticated session.
type peer struct {
	srv  *Server
	sess *tunnel.Session
	is   atomic.Pointer[Identity] // a renewed certificate takes the place of the old one

	end      context.CancelCauseFunc // ends the session; set by serve
	late     *time.Timer             // ends a session without a registration; nil for users
	attends  atomic.Int32            // unregistered and on
	joined   atomic.Bool             // a certificate was sold
	controls atomic.Int32            // control streams that are open
}

// States of a registration: a session registers once.
const (
	unregistered int32 = iota
	registered
	departed
)

func newPeer(s *Server, who Identity, sess *tunnel.Session) *peer {
	p := &peer{srv: s, sess: sess}
	p.is.Store(&who)
	return p
}

func (p *peer) who() Identity { return *p.is.Load() }

// serve takes streams until the session or ctx ends.
func (p *peer) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	p.end = cancel
	if p.who().Role != RoleUser {
		// A node must register and stay so; a joiner must be done and gone.
		p.late = time.AfterFunc(2*p.srv.cfg.OpenTimeout, func() {
			switch state := p.attends.Load(); {
			case state == departed, p.joined.Load():
				cancel(errLeft)
			case state == unregistered:
				cancel(errSilent)
			}
		})
		defer p.late.Stop()
	}
	var watch sync.WaitGroup
	watch.Go(func() { p.recheck(ctx) })
	defer watch.Wait()
	defer cancel(nil)
	return p.sess.Serve(ctx, func(st *tunnel.Stream) { p.stream(ctx, st) })
}

// soon ends an agent's session unless it is registered: it gets a moment to
// hang up by itself.
func (p *peer) soon() { p.late.Reset(time.Second) }

// recheck asks from time to time whether the peer may still be here.
func (p *peer) recheck(ctx context.Context) {
	if _, ok := p.srv.cfg.Auth.(Revalidator); !ok {
		return
	}
	every := time.NewTicker(p.srv.cfg.RevalidateEvery)
	defer every.Stop()
	for {
		select {
		case <-every.C:
			_ = p.valid(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// valid asks whether the peer may still be here, and ends its session if not.
func (p *peer) valid(ctx context.Context) error {
	judge, ok := p.srv.cfg.Auth.(Revalidator)
	if !ok {
		return nil
	}
	who := p.who()
	err := judge.Revalidate(ctx, who)
	if err == nil {
		return nil
	}
	if c := stream.CodeOf(err); c == stream.Unauthenticated || c == stream.Forbidden {
		p.srv.metrics.refused("revoked")
		p.srv.expelled(p, err)
		p.end(fmt.Errorf("%s %s may not be here any more: %w", who.Role, who.Name, err))
		return err
	}
	p.srv.noise.warn(ctx, "cannot tell whether a peer may still be here",
		"role", who.Role.String(), "name", who.Name, "err", err)
	return err
}

// stream serves one stream the peer opened.
func (p *peer) stream(ctx context.Context, st *tunnel.Stream) {
	_ = st.SetDeadline(time.Now().Add(p.srv.cfg.OpenTimeout))
	open, err := stream.ReadOpen(st)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) && p.sess.Err() == nil {
			err = &stream.Error{Code: stream.Malformed, Text: "open ends before its end"}
		}
		p.srv.metrics.refused("open")
		st.Refuse(err)
		return
	}
	role := p.who().Role
	switch {
	case open.Kind == stream.KindControl:
		p.control(st)
	case open.Kind == stream.KindForward && role == RoleUser:
		p.srv.route(ctx, p, st, open)
	default:
		p.srv.metrics.refused("open")
		st.Refuse(&stream.Error{
			Code: stream.Unsupported,
			Text: fmt.Sprintf("a %s may not open streams of kind %s", role, open.Kind),
		})
	}
}

// control hands a stream to the control plane, which answers it without a
// Reply; so a refusal is a reset.
func (p *peer) control(st *tunnel.Stream) {
	_ = st.SetDeadline(time.Time{})
	c := &control{Stream: st, of: p}
	if p.controls.Add(1) > maxControls {
		p.srv.metrics.refused("open")
		_ = st.Reset()
		c.gone()
		return
	}
	l := p.srv.agents
	if p.who().Role == RoleUser {
		l = p.srv.clients
	}
	if err := l.Deliver(c, p); errors.Is(err, rpc.ErrBacklog) { // closed by Deliver
		p.srv.metrics.refused("backlog")
	}
}

// control is a control stream that is counted while it is open.
type control struct {
	*tunnel.Stream
	of   *peer
	once sync.Once
}

var _ net.Conn = (*control)(nil)

// Close ends the stream.
func (c *control) Close() error {
	c.gone()
	return c.Stream.Close()
}

func (c *control) gone() { c.once.Do(func() { c.of.controls.Add(-1) }) }
