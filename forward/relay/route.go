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
		user:    p.who.Name,
		from:    p.sess.RemoteAddr().String(),
		target:  Target{Namespace: open.Namespace, Pod: open.Pod, Port: open.Port},
		started: time.Now(),
	}
	agent, err := s.reach(ctx, p.who, f, open)
	if err != nil {
		refuse(client, err)
		s.report(f, verdict{code: stream.CodeOf(err), text: err.Error()})
		return
	}
	_ = client.SetDeadline(time.Time{})
	s.flows.add(f)
	v := s.splice(ctx, client, agent, f)
	s.flows.remove(f)
	s.report(f, v)
}

// reach opens a stream to the pod's node and sends Open on it.
func (s *Server) reach(ctx context.Context, who Identity, f *flow, open *stream.Open) (*tunnel.Stream, error) {
	if !s.Ready() {
		return nil, &stream.Error{Code: stream.GoingAway, Text: "relay is shutting down"}
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.OpenTimeout)
	defer cancel()
	if s.cfg.Authorize != nil {
		if err := s.cfg.Authorize.Authorize(ctx, who, f.target); err != nil {
			return nil, err
		}
	}
	place, err := s.cfg.Locate.Locate(ctx, who, f.target)
	if err != nil {
		return nil, err
	}
	f.node = place.Node
	onward := &stream.Open{
		Kind: stream.KindForward, ID: open.ID, UID: place.UID, Port: open.Port,
		Namespace: open.Namespace, Pod: open.Pod, User: who.Name,
	}
	for _, t := range s.nodes.tunnels(place.Node) {
		st, err := openOn(ctx, t.sess, onward)
		switch {
		case err == nil:
			return st, nil
		case ctx.Err() != nil:
			return nil, &stream.Error{Code: stream.Timeout, Text: fmt.Sprintf("node %s takes no stream", place.Node)}
		case errors.Is(err, tunnel.ErrTooManyStreams):
			return nil, &stream.Error{Code: stream.Overloaded, Text: fmt.Sprintf("node %s carries as many streams as it may", place.Node)}
		}
		// This tunnel was lost; nothing was sent to the pod, another may serve.
	}
	return nil, &stream.Error{Code: stream.AgentOffline, Text: fmt.Sprintf("no agent is connected for node %s", place.Node)}
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
	s.metrics.stream(v.code, up, down)
	s.cfg.Log.Info("stream",
		"id", f.id.String(), "user", f.user, "from", f.from, "node", f.node,
		"pod", f.target.Namespace+"/"+f.target.Pod, "port", f.target.Port,
		"bytes_up", up, "bytes_down", down,
		"code", v.code.String(), "reason", v.text,
		"duration", time.Since(f.started).Round(time.Microsecond).String())
}
