package relay

import (
	"context"
	"errors"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// begin counts a stream in. One that is too many is refused without a line of its
// own: whoever opens too many must not fill the log.
func (s *Server) begin(ctx context.Context, f *flow) error {
	if err := s.quotas.begin(f.user); err != nil {
		return s.overLimit(ctx, err, "user", f.user, "from", f.from, "door", f.door)
	}
	if !s.flows.begin() {
		s.quotas.end(f.user, "")
		return errShutdown
	}
	return nil
}

// end counts a stream out that begin has counted in.
func (s *Server) end(f *flow) {
	s.quotas.end(f.user, f.counted)
	s.flows.end()
}

// occupy counts a stream in for the node that it is about to go to.
func (w *way) occupy(ctx context.Context, node string) error {
	f := w.flow
	if err := w.srv.quotas.reach(node, f.counted); err != nil {
		return w.srv.overLimit(ctx, err, "node", node, "user", f.user)
	}
	f.counted = node
	return nil
}

// overLimit counts a refusal for which a limit is the reason.
func (s *Server) overLimit(ctx context.Context, err error, about ...any) error {
	var over *overLimitError
	if !errors.As(err, &over) {
		return err
	}
	s.metrics.overLimit(over.limit)
	s.noise.warn(ctx, "over a limit", append([]any{"limit", over.limit}, about...)...)
	return err
}

// BeginSession counts a session of a user in that comes through a door of its own;
// end counts it out, once. A refusal is a *stream.Error with Overloaded.
func (s *Server) BeginSession(ctx context.Context, who Identity) (end func(), err error) {
	if err := s.quotas.enter(who); err != nil {
		return nil, s.overLimit(ctx, err, "role", who.Role.String(), "name", who.Name)
	}
	return func() { s.quotas.leave(who) }, nil
}

// BeginRequest counts a request of a credential in, which may be known by any text
// that is not secret; end counts it out, once. A refusal is a *stream.Error with
// Overloaded.
func (s *Server) BeginRequest(ctx context.Context, credential, from string) (end func(), err error) {
	if err := s.quotas.request(credential); err != nil {
		return nil, s.overLimit(ctx, err, "from", from)
	}
	return func() { s.quotas.done(credential) }, nil
}

// refused reports a stream that came to nothing. One too many leaves no line in the
// log, where overLimit has said it.
func (s *Server) refused(f *flow, err error) {
	v := verdict{code: stream.CodeOf(err), text: err.Error()}
	if errors.As(err, new(*overLimitError)) {
		s.metrics.stream(v.code, f.door)
		s.audited(f, v)
		return
	}
	s.report(f, v)
}
