package relay

import (
	"cmp"
	"context"

	"github.com/culvert-k8s/culvert/forward/relay/policy"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// permitted asks the policy about a stream whose caller has the right to it.
func (w *way) permitted(ctx context.Context, at Place) (policy.Decision, error) {
	d, err := w.srv.judge(ctx, w.who(), w.flow.target, at)
	if err != nil {
		return d, err
	}
	w.flow.judged.Store(&d)
	return d, refusedBy(&d)
}

// Permits tells whether the policy lets a caller reach a port of a pod that he has
// the right to reach; with the port 0, any port. If not, the error is the
// *stream.Error that a Dial would meet now: a door that can refuse before it lets
// somebody in should.
func (s *Server) Permits(ctx context.Context, who Identity, t Target, at Place) error {
	d, err := s.judge(ctx, who, t, at)
	if err != nil {
		return err
	}
	return refusedBy(&d)
}

// judge decides. The groups of a caller may be others than when he came.
func (s *Server) judge(ctx context.Context, who Identity, t Target, at Place) (policy.Decision, error) {
	var p *policy.Policy
	if s.cfg.Policy != nil {
		p = s.cfg.Policy()
	}
	if k, ok := s.cfg.Authorize.(Knower); ok && p.Len() > 0 {
		var err error
		if who, err = k.Known(ctx, who); err != nil {
			return policy.Decision{}, err
		}
	}
	return p.Decide(&policy.Request{
		User: cmp.Or(who.Exact, who.Name), Groups: who.Groups,
		Namespace: t.Namespace, Pod: t.Pod, About: at.About, Port: t.Port,
	}), nil
}

func refusedBy(d *policy.Decision) error {
	if d.Allowed {
		return nil
	}
	return &stream.Error{Code: stream.Policy, Text: clipTo(d.Text, stream.MaxText)}
}
