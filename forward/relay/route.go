package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// doorTunnel is the way in of a stream that came through a client's tunnel.
const doorTunnel = "culvert"

// route serves one stream of a client: it asks who may and where, opens a
// stream to the node, and copies until both directions have ended.
func (s *Server) route(ctx context.Context, p *peer, client *tunnel.Stream, open *stream.Open) {
	who := p.who()
	f := &flow{
		id:      open.ID,
		user:    who.Name,
		owner:   cmp.Or(who.Exact, who.Name),
		trace:   open.Trace,
		groups:  who.Groups,
		from:    p.sess.RemoteAddr().String(),
		door:    doorTunnel,
		target:  Target{Namespace: open.Namespace, Pod: open.Pod, Port: open.Port},
		started: time.Now(),
	}
	w := &way{srv: s, flow: f, who: p.who, valid: p.valid, uid: open.UID, more: client.Ready}
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	f.stopper.arm(cut)
	f.charge(client)
	var agent end
	err := s.begin(ctx, f)
	if err == nil {
		defer s.end(f)
		agent, err = w.reach(ctx)
	}
	if err != nil {
		s.refused(f, err)
		client.Refuse(err)
		return
	}
	_ = client.SetDeadline(time.Time{})
	s.flows.add(f)
	v := s.splice(ctx, w, end{client, p.sess}, agent)
	s.flows.remove(f)
	s.report(f, v)
}

// way is how a stream gets to its pod. The place may turn out to be wrong: then
// it is looked for once more.
type way struct {
	srv   *Server
	flow  *flow
	who   func() Identity
	valid func(context.Context) error // nil: the caller was judged just now
	uid   string                      // of the pod the caller means; empty: any of that name
	more  func() bool                 // whether something is there to follow the Open at once; nil: nothing is
	again bool
}

// reach opens a stream to the pod's node and sends Open on it.
func (w *way) reach(ctx context.Context) (end, error) {
	ctx, cancel := context.WithTimeout(ctx, w.srv.cfg.OpenTimeout)
	defer cancel()
	for {
		at, err := w.find(ctx)
		if err != nil {
			return end{}, err
		}
		w.flow.at.Store(&at)
		if err := w.occupy(ctx, at.Node); err != nil {
			return end{}, err
		}
		e, err := w.open(ctx, at)
		if err == nil || !w.misplaced(stream.CodeOf(err)) {
			return e, err
		}
	}
}

// misplaced tells whether a refusal means that the place was wrong and another
// one is worth a try. The Locator has forgotten this one then.
func (w *way) misplaced(code stream.Code) bool {
	locator, ok := w.srv.cfg.Locate.(Forgetter)
	if !ok || w.again {
		return false
	}
	switch code {
	case stream.WrongNode, stream.PodNotFound, stream.NamespaceGone, stream.AgentOffline:
	default:
		return false
	}
	w.again = true
	w.srv.metrics.again.Inc()
	locator.Forget(w.flow.target, w.flow.place())
	return true
}

// find asks whether the caller is still who it was, whether it may, where the pod
// is, and whether the policy has something against it.
func (w *way) find(ctx context.Context) (Place, error) {
	t := w.flow.target
	if t.Namespace == "" || t.Pod == "" {
		return Place{}, &stream.Error{Code: stream.Malformed, Text: "namespace or pod is missing"}
	}
	if err := w.allowed(ctx); err != nil {
		return Place{}, err
	}
	at, err := w.srv.cfg.Locate.Locate(ctx, w.who(), t)
	if err == nil {
		_, err = w.permitted(ctx, at)
	}
	return at, err
}

// allowed asks whether the caller is still who it was, and whether it may.
func (w *way) allowed(ctx context.Context) error {
	if err := w.srv.cfg.Audit.Admit(); err != nil {
		w.srv.noise.warn(ctx, "no streams without an audit log", "err", err)
		return errUnaudited
	}
	if w.valid != nil {
		if err := w.valid(ctx); err != nil {
			return err
		}
	}
	if a := w.srv.cfg.Authorize; a != nil {
		return a.Authorize(ctx, w.who(), w.flow.target)
	}
	return nil
}

// open opens a stream over one of the tunnels of the node.
func (w *way) open(ctx context.Context, at Place) (end, error) {
	t := w.flow.target
	if w.uid != "" && w.uid != at.UID {
		return end{}, &stream.Error{
			Code: stream.PodNotFound,
			Text: fmt.Sprintf("pod %s in namespace %s is another one now", t.Pod, t.Namespace),
		}
	}
	onward := &stream.Open{
		Kind: stream.KindForward, ID: w.flow.id, UID: at.UID, Port: t.Port,
		Namespace: t.Namespace, Pod: t.Pod, User: w.flow.user, Trace: w.flow.trace,
	}
	for _, t := range w.tunnels(ctx, at.Node) {
		st, err := openOn(ctx, t.sess, onward, w.more != nil && w.more())
		switch {
		case err == nil:
			w.flow.charge(st)
			w.flow.via.Store(t.sess)
			return end{st, t.sess}, nil
		case ctx.Err() != nil:
			if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) {
				return end{}, cause
			}
			return end{}, &stream.Error{Code: stream.Timeout, Text: fmt.Sprintf("node %s takes no stream", at.Node)}
		case errors.Is(err, tunnel.ErrTooManyStreams):
			return end{}, &stream.Error{Code: stream.Overloaded, Text: fmt.Sprintf("node %s carries as many streams as it may", at.Node)}
		case !errors.Is(err, tunnel.ErrLost):
			return end{}, fmt.Errorf("open stream to node %s: %w", at.Node, err)
		}
		// This tunnel was lost; nothing was sent to the pod, another may serve.
	}
	return end{}, offline(at.Node)
}

// tunnels returns the ways to a node. A fresh relay waits for the first one, and so
// does one that has just lost the last, unless there are others that the caller can go
// to meanwhile: culvert can and kubectl cannot.
func (w *way) tunnels(ctx context.Context, node string) []*tunnelTo {
	for {
		tunnels, changed := w.srv.nodes.tunnels(node)
		if len(tunnels) > 0 || w.flow.door == doorTunnel && w.srv.peers.count() > 1 ||
			!awaitReport(ctx, changed, w.srv.nodes.awaited(node, podName{})) {
			return tunnels
		}
	}
}

func offline(node string) *stream.Error {
	return &stream.Error{Code: stream.AgentOffline, Text: fmt.Sprintf("no agent is connected for node %s", node)}
}

// Reaches tells whether the agent of a node is connected. If it is not, the error
// is the *stream.Error that a Dial to its pods would meet now: a door that can
// refuse before it lets somebody in should.
func (s *Server) Reaches(node string) error {
	if tunnels, _ := s.nodes.tunnels(node); len(tunnels) == 0 {
		return offline(node)
	}
	return nil
}

// openOn opens a stream and sends Open on it. With more, what follows is written at
// once and leaves in the same packet.
func openOn(ctx context.Context, sess *tunnel.Session, open *stream.Open, more bool) (*tunnel.Stream, error) {
	b, err := stream.AppendOpen(make([]byte, 0, 256), open)
	if err != nil {
		return nil, err
	}
	st, err := sess.Open(ctx)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = st.SetWriteDeadline(deadline)
	write := st.Write
	if more {
		write = st.WriteSoon
	}
	if _, err := write(b); err != nil {
		_ = st.Reset()
		return nil, fmt.Errorf("write open: %w", err)
	}
	_ = st.SetWriteDeadline(time.Time{})
	return st, nil
}
