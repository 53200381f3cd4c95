package relay

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Call asks for a connection to a pod on behalf of a caller who came through a
// door of his own, not through a tunnel. That he is who he is was judged there.
type Call struct {
	Who    Identity
	From   string // the caller's address, for the log line
	Target Target
	// Trace says to what the connection belongs. Zero: to nothing.
	Trace stream.Trace
	// Door names the way in: in the log line, and as a label of the metrics, so
	// it is one of a few names.
	Door string
}

// Link is a connection to a pod that the pod has accepted and that nobody uses
// yet. Whoever dialled it ends it, with Join or with Close.
type Link struct {
	srv   *Server
	flow  *flow
	agent end
	conn  *tunnel.Conn
	taken atomic.Bool
}

// Dial opens a connection to a pod: it asks whether the caller may, looks where
// the pod is, and waits for its answer; each at most for OpenTimeout. A refusal
// is a *stream.Error, and has left its log line and its count. The link counts as
// a running stream until it ends. ctx is for Dial alone.
func (s *Server) Dial(ctx context.Context, c Call) (*Link, error) {
	f := &flow{
		id: stream.NewID(), user: c.Who.Name, groups: c.Who.Groups, from: c.From,
		owner: cmp.Or(c.Who.Exact, c.Who.Name), trace: c.Trace, door: c.Door, target: c.Target, started: time.Now(),
	}
	if err := s.begin(ctx, f); err != nil {
		return nil, s.refuse(f, err)
	}
	w := &way{srv: s, flow: f, who: func() Identity { return c.Who }}
	l, err := w.dial(ctx)
	if err != nil {
		s.end(f)
		return nil, s.refuse(f, err)
	}
	s.accepted(f)
	s.flows.add(f)
	return l, nil
}

// refuse reports a call that came to nothing and returns what the caller may be
// told of it.
func (s *Server) refuse(f *flow, err error) *stream.Error {
	code, text := stream.CodeOf(err), stream.TextOf(err)
	s.refused(f, err)
	if code == stream.Internal {
		text = "the relay could not open the connection; its log tells why under " + f.id.String()
	}
	return &stream.Error{Code: code, Text: text}
}

// dial goes to the pod and waits for its answer. Nothing has been sent to the pod
// before that, so another try harms nobody.
func (w *way) dial(ctx context.Context) (*Link, error) {
	for {
		agent, err := w.reach(ctx)
		if err != nil {
			return nil, err
		}
		l := &Link{srv: w.srv, flow: w.flow, agent: agent, conn: tunnel.NewConn(agent.Stream)}
		if err = l.await(ctx); err == nil {
			return l, nil
		}
		if !w.misplaced(stream.CodeOf(err)) {
			return nil, err
		}
	}
}

// await waits for the agent's answer. Unless that is yes the stream has been ended.
func (l *Link) await(ctx context.Context) error {
	node := "node " + l.flow.place().Node
	silent := &stream.Error{Code: stream.Timeout, Text: node + " did not answer in time"}
	ctx, cancel := context.WithTimeoutCause(ctx, l.srv.cfg.OpenTimeout, silent)
	defer cancel()
	l.conn.ExpectReply()
	err := l.conn.WaitReply(ctx)
	if err == nil {
		return nil
	}
	if no, ok := err.(*stream.Error); ok { //nolint:errorlint // the answer itself; within another error it is a fault
		_ = l.agent.Close()
		if no.Code == stream.GoingAway {
			// To the caller the same code would say that this relay leaves.
			return &stream.Error{Code: stream.AgentOffline, Text: node + " is going away"}
		}
		return no
	}
	said := (*stream.Error)(nil)
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Cause(ctx)):
		err = context.Cause(ctx)
	case errors.As(err, &said):
		err = &stream.Error{Code: said.Code, Text: node + " broke the protocol: " + said.Text}
	case errors.Is(err, tunnel.ErrLost):
		err = &stream.Error{Code: stream.AgentOffline, Text: "lost the way to the " + node + " before it answered"}
	default:
		err = &stream.Error{Code: stream.Canceled, Text: node + " broke off before it answered"}
	}
	_ = l.conn.Reset(err)
	return err
}

// Join carries bytes between client and the pod until both directions have ended,
// or ctx has, and takes both over; see forward.Joiner. It writes the one log line.
// The error is nil only if both sides finished; what went wrong on the way to the
// pod has a *stream.Error in its chain.
func (l *Link) Join(ctx context.Context, client forward.Conn) error {
	if l.taken.Swap(true) {
		err := errors.New("join: the link has ended")
		_ = client.Reset(err)
		return err
	}
	defer l.srv.end(l.flow)
	ctx, cut := context.WithCancelCause(ctx)
	l.flow.stopper.arm(cut)
	pod := &podEnd{Conn: l.conn, link: l}
	watching := later(func() { l.watch(ctx, cut, pod) })
	_, err := l.srv.joiner.Join(ctx, client, pod, &l.flow.live)
	cut(nil)
	watching.end()
	l.srv.flows.remove(l.flow)
	l.srv.report(l.flow, ofJoin(err))
	return err
}

// watch sees what no read and no write would tell while the client is slow: that
// the way to the pod is gone. If the pod had the client's end by then, it may well
// have finished, and what it sent is still there to be read.
func (l *Link) watch(ctx context.Context, cut context.CancelCauseFunc, pod *podEnd) {
	select {
	case <-ctx.Done():
	case <-l.agent.Gone():
		cut(pod.named(forward.ErrReset))
	case <-l.agent.sess.Done():
		if !pod.finished.Load() {
			cut(pod.named(l.agent.sess.Err()))
		}
	}
}

// Close gives up a link that was not joined. After Join it does nothing.
func (l *Link) Close() error {
	if l.taken.Swap(true) {
		return nil
	}
	gone := &stream.Error{Code: stream.Canceled, Text: "client gave the connection up"}
	_ = l.conn.Reset(gone)
	l.srv.flows.remove(l.flow)
	l.srv.report(l.flow, verdict{code: gone.Code, text: gone.Text})
	l.srv.end(l.flow)
	return nil
}

// ofJoin is how a joined stream ended. An error without a code is the client's.
func ofJoin(err error) verdict {
	if err == nil {
		return verdict{code: stream.OK}
	}
	if said := (*stream.Error)(nil); errors.As(err, &said) && said.Code != stream.OK {
		return verdict{code: said.Code, text: said.Text}
	}
	code := stream.CodeOf(err)
	if code == stream.Internal {
		code = stream.Canceled
	}
	return verdict{code: code, text: "client broke off: " + err.Error()}
}
