package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
)

const (
	// seekFirst bounds the time until a relay that is missing is looked for: others may
	// find it meanwhile, and not all nodes should look at once.
	seekFirst = 2 * time.Second
	// seekPause is the pause between two tries at first, and seekMax that at last.
	seekPause, seekMax = time.Second, 2 * time.Minute
	// seekTries is how often for each relay there is the first pause is used: with
	// four, one of five relays is missed by a node in sixty.
	seekTries = 4
)

// sameRelayError is why a tunnel was not registered: another one leads to that relay.
type sameRelayError struct{ number uint64 }

func (*sameRelayError) Error() string { return "this relay has a tunnel of this agent already" }

// seek dials the one address of several relays until there is a tunnel to each of
// them. Which one answers is chance, so it is tried a while at an even pace, then
// ever more slowly, for ever: a load balancer may bring this node to the same relay
// each time. It returns with ctx.
func (k *keeper) seek(ctx, hard context.Context, tunnels *sync.WaitGroup) {
	s := search{log: k.log}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		gap := k.gap()
		var due <-chan time.Time
		if s.plan(&gap) {
			timer.Reset(time.Until(s.due))
			due = timer.C
		}
		select {
		case <-gap.changed:
		case <-due:
			k.tryOnce(ctx, hard, tunnels)
			s.tried(&gap)
		case <-ctx.Done():
		}
	}
}

// search is when the next try is due.
type search struct {
	log   *slog.Logger
	held  string // gap.held of what it is about
	tries int    // since something changed
	due   time.Time
	said  bool
}

// plan tells whether there is something to look for.
func (s *search) plan(g *gap) bool {
	switch {
	case g.missing() == 0:
		if s.said && g.count > 0 {
			s.log.Info("a tunnel to every relay", "relays", g.count)
			s.said = false
		}
		s.held = ""
		return false
	case s.held != g.held:
		s.held, s.tries = g.held, 0
		s.due = time.Now().Add(rand.N(max(seekFirst, g.pace))) //nolint:gosec // no secret
	}
	return true
}

// tried sets when the next try is due.
func (s *search) tried(g *gap) {
	s.tries++
	pause := max(seekPause, g.pace)
	patient := seekTries * g.count
	if s.tries >= patient {
		pause = min(pause<<min(s.tries-patient, 10), max(seekMax, pause))
	}
	if s.tries == patient && !s.said {
		s.said = true
		s.log.Warn("not every relay gets a tunnel: the load balancer leads this node to the same ones again and again; "+
			"switch off its session affinity, or give the agents a name with the address of each relay",
			"relays", g.count, "reached", g.reached, "tries", s.tries)
	}
	s.due = time.Now().Add(connect.UpperHalf(pause))
}

// gap is what is missing of what this address stands for.
func (k *keeper) gap() gap {
	gap := k.agent.fleet.gap(k.relay, k.addr)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unwanted {
		gap.count = 0
	}
	return gap
}

// tryOnce dials once, after those who are at it. It returns when it is known where
// that led.
func (k *keeper) tryOnce(ctx, hard context.Context, tunnels *sync.WaitGroup) {
	if !occupy(ctx, k.agent.seeking) {
		return
	}
	defer func() { <-k.agent.seeking }()
	if gap := k.gap(); gap.missing() == 0 {
		return // somebody else has found it
	}
	if k.agent.spare.Add(-1) < 0 {
		k.agent.spare.Add(1)
		return
	}
	up, err := k.dial(ctx)
	if err != nil {
		k.agent.spare.Add(1)
		k.log.Debug("no other relay reached", "err", err)
		return
	}
	life, end := context.WithCancelCause(hard)
	tunnels.Go(func() {
		defer k.agent.spare.Add(1)
		defer k.name.reached()()
		up.serve(ctx, life, end)
	})
	select {
	case <-up.known:
	case <-life.Done():
	}
}

// park waits while another tunnel leads to the relay that this address leads to.
func (k *keeper) park(ctx context.Context, same *sameRelayError) {
	other := k.agent.fleet.find(same.number)
	if other == nil {
		return // it has gone meanwhile, or the relay errs
	}
	k.log.Info("this address leads to a relay that has a tunnel already, and one is enough", "other", other.addr)
	select {
	case <-other.gone:
	case <-ctx.Done():
	}
}

// isSame tells whether a tunnel ended because it was one too many.
func isSame(err error) (*sameRelayError, bool) {
	same := (*sameRelayError)(nil)
	return same, errors.As(err, &same)
}
