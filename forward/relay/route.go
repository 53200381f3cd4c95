package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// route serves one stream of a client: it asks who may and where, opens a
// stream to the node, and copies until both directions have ended.
func (s *Server) route(ctx context.Context, p *peer, client *tunnel.Stream, open *stream.Open) {
	f := &flow{
		id:      open.ID,
		user:    p.who().Name,
		from:    p.sess.RemoteAddr().String(),
		target:  Target{Namespace: open.Namespace, Pod: open.Pod, Port: open.Port},
		started: time.Now(),
	}
	var agent *tunnel.Stream
	var node *tunnel.Session
	err := error(errShutdown)
	if s.flows.begin() {
		defer s.flows.end()
		agent, node, err = s.reach(ctx, p, f, open)
	}
	if err != nil {
		client.Refuse(err)
		s.report(f, verdict{code: stream.CodeOf(err), text: err.Error()})
		return
	}
	_ = client.SetDeadline(time.Time{})
	s.flows.add(f)
	v := s.splice(ctx, f, end{client, p.sess}, end{agent, node})
	s.flows.remove(f)
	s.report(f, v)
}

// reach opens a stream to the pod's node and sends Open on it.
func (s *Server) reach(ctx context.Context, p *peer, f *flow, open *stream.Open) (*tunnel.Stream, *tunnel.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.OpenTimeout)
	defer cancel()
	place, err := s.find(ctx, p, f.target, open.UID)
	if err != nil {
		return nil, nil, err
	}
	f.node, f.uid = place.Node, place.UID
	onward := &stream.Open{
		Kind: stream.KindForward, ID: open.ID, UID: place.UID, Port: open.Port,
		Namespace: open.Namespace, Pod: open.Pod, User: f.user,
	}
	for _, t := range s.nodes.tunnels(place.Node) {
		st, err := openOn(ctx, t.sess, onward)
		switch {
		case err == nil:
			return st, t.sess, nil
		case ctx.Err() != nil:
			if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) {
				return nil, nil, cause
			}
			return nil, nil, &stream.Error{Code: stream.Timeout, Text: fmt.Sprintf("node %s takes no stream", place.Node)}
		case errors.Is(err, tunnel.ErrTooManyStreams):
			return nil, nil, &stream.Error{Code: stream.Overloaded, Text: fmt.Sprintf("node %s carries as many streams as it may", place.Node)}
		case !errors.Is(err, tunnel.ErrLost):
			return nil, nil, fmt.Errorf("open stream to node %s: %w", place.Node, err)
		}
		// This tunnel was lost; nothing was sent to the pod, another may serve.
	}
	return nil, nil, &stream.Error{Code: stream.AgentOffline, Text: fmt.Sprintf("no agent is connected for node %s", place.Node)}
}

// find asks whether the caller is still who it was, whether it may, and where
// the pod is. uid is that of the pod the caller means, empty for any.
func (s *Server) find(ctx context.Context, p *peer, t Target, uid string) (Place, error) {
	if t.Namespace == "" || t.Pod == "" {
		return Place{}, &stream.Error{Code: stream.Malformed, Text: "namespace or pod is missing"}
	}
	if err := p.valid(ctx); err != nil {
		return Place{}, err
	}
	who := p.who()
	if s.cfg.Authorize != nil {
		if err := s.cfg.Authorize.Authorize(ctx, who, t); err != nil {
			return Place{}, err
		}
	}
	place, err := s.cfg.Locate.Locate(ctx, who, t)
	if err != nil {
		return Place{}, err
	}
	if uid != "" && uid != place.UID {
		return Place{}, &stream.Error{
			Code: stream.PodNotFound,
			Text: fmt.Sprintf("pod %s in namespace %s is another one now", t.Pod, t.Namespace),
		}
	}
	return place, nil
}

func openOn(ctx context.Context, sess *tunnel.Session, open *stream.Open) (*tunnel.Stream, error) {
	st, err := sess.Open(ctx)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = st.SetWriteDeadline(deadline)
	if err := stream.WriteOpen(st, open); err != nil {
		_ = st.Reset()
		return nil, err
	}
	_ = st.SetWriteDeadline(time.Time{})
	return st, nil
}

// report writes the one line a stream leaves and counts it.
func (s *Server) report(f *flow, v verdict) {
	up, down := f.bytes()
	s.metrics.stream(v.code)
	s.cfg.Log.Info("stream",
		"id", f.id.String(), "user", f.user, "from", f.from, "node", f.node,
		"pod", f.target.Namespace+"/"+f.target.Pod, "uid", f.uid, "port", f.target.Port,
		"bytes_up", up, "bytes_down", down,
		"code", v.code.String(), "reason", v.text,
		"duration", time.Since(f.started).Round(time.Microsecond).String())
}
