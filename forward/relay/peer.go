package relay

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// peer is an authenticated session.
type peer struct {
	srv  *Server
	who  Identity
	sess *tunnel.Session

	registered atomic.Bool // an agent has said which node it is
}

// errSilent ends the session of an agent that does not say what it came for.
var errSilent = errors.New("agent did not register in time")

// serve takes streams until the session or ctx ends.
func (p *peer) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if p.who.Role != RoleUser {
		// A node must register; a joiner must be done and gone.
		late := time.AfterFunc(2*p.srv.cfg.OpenTimeout, func() {
			if !p.registered.Load() {
				cancel(errSilent)
			}
		})
		defer late.Stop()
	}
	return p.sess.Serve(ctx, func(st *tunnel.Stream) { p.stream(ctx, st) })
}

// stream serves one stream the peer opened.
func (p *peer) stream(ctx context.Context, st *tunnel.Stream) {
	_ = st.SetDeadline(time.Now().Add(p.srv.cfg.OpenTimeout))
	open, err := stream.ReadOpen(st)
	if err != nil {
		refuse(st, err)
		return
	}
	switch {
	case open.Kind == stream.KindControl:
		_ = st.SetDeadline(time.Time{})
		l := p.srv.agents
		if p.who.Role == RoleUser {
			l = p.srv.clients
		}
		_ = l.Deliver(st, p) // it owns the stream, whatever happens
	case open.Kind == stream.KindForward && p.who.Role == RoleUser:
		p.srv.route(ctx, p, st, open)
	default:
		refuse(st, &stream.Error{
			Code: stream.Unsupported,
			Text: fmt.Sprintf("a %s may not open streams of kind %s", p.who.Role, open.Kind),
		})
	}
}

// refuse answers an Open with an error and ends the stream. The reply goes out
// within a second or not at all.
func refuse(st *tunnel.Stream, err error) {
	_ = st.SetDeadline(time.Now().Add(time.Second))
	b, aerr := stream.AppendReply(nil, &stream.Reply{Version: stream.Version, Code: stream.CodeOf(err), Text: textOf(err)})
	if aerr == nil {
		_, _ = st.WriteLast(b)
	}
	_ = st.Close()
}

// textOf is what a peer is told of an error: the text of the coded part, so
// that addresses and inner workings stay here.
func textOf(err error) string {
	if coded := (*stream.Error)(nil); errors.As(err, &coded) {
		return coded.Text
	}
	return ""
}
