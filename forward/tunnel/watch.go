package tunnel

import (
	"time"
)

const (
	sweepFirst = 2 * time.Millisecond   // a stream that lingers is looked after so soon,
	sweepLast  = 200 * time.Millisecond // then ever more seldom, down to this
	shrinkIdle = 5 * time.Second        // a stream nobody read from for this long gives its buffer back
)

// parting says when a stream that was closed here is looked after.
type parting struct {
	until time.Time // then its peer is reset
	next  time.Time
	pause time.Duration
}

// watch keeps an eye on the peer until the session ends. Nothing in it may
// wait for the connection.
func (s *Session) watch() {
	now := time.Now()
	live := liveness{cfg: s.cfg, car: s.car, in: s.in, out: s.out, ticked: now, saidAt: now}
	tick := min(s.cfg.PingAfter, s.cfg.DeadAfter) / 5
	beat := time.NewTimer(tick)
	defer beat.Stop()
	for {
		select {
		case <-s.done:
			return
		case now := <-beat.C:
			if err := live.tick(now); err != nil {
				s.fail(err)
				return
			}
			if s.in.waiting() { // make something come in
				s.out.inject(muxControl(typePing, flagSYN, 0, 0))
			}
			beat.Reset(tick)
		}
	}
}

// tidy looks after streams until the session ends: has the peer ended those
// that were closed here, which are idle. It may have to wait for yamux, which
// may wait for the connection.
func (s *Session) tidy() {
	idle := time.NewTicker(shrinkIdle)
	defer idle.Stop()
	sweep := time.NewTimer(time.Hour)
	sweep.Stop()
	defer sweep.Stop()
	var at time.Time // when sweep will fire; zero: not at all
	for {
		select {
		case <-s.done:
			return
		case <-s.nudge:
			// Whoever comes while the timer runs must not put it off.
			if now := time.Now(); at.IsZero() || at.Sub(now) > sweepFirst {
				at = now.Add(sweepFirst)
				sweep.Reset(sweepFirst)
			}
		case <-sweep.C:
			at = time.Time{}
			now := time.Now()
			if again, left := s.sweep(now); left {
				at = now.Add(again)
				sweep.Reset(again)
			}
		case <-idle.C:
			s.shrink()
		}
	}
}

// linger hands a stream that was ended here to tidy, until its peer has ended
// it too.
func (s *Session) linger(st *Stream) {
	now := time.Now()
	s.mu.Lock()
	if _, known := s.streams[st]; known {
		s.lingering[st] = parting{until: now.Add(s.cfg.Linger), next: now, pause: sweepFirst}
	}
	s.mu.Unlock()
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// sweep discards what came for streams that were ended here, forgets those
// the peer has ended and resets those it had time enough to. It tells whether
// any are left and when to come again.
func (s *Session) sweep(now time.Time) (again time.Duration, left bool) {
	for st, p := range s.due(now) {
		switch {
		case st.ended():
			s.remove(st)
		case now.After(p.until):
			s.abort(st.ID())
			s.remove(st)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	again = sweepLast
	for _, p := range s.lingering {
		again = min(again, max(sweepFirst, p.next.Sub(now)))
	}
	return again, len(s.lingering) > 0
}

// due returns the streams whose turn it is and says when it is again.
func (s *Session) due(now time.Time) map[*Stream]parting {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := make(map[*Stream]parting)
	for st, p := range s.lingering {
		if p.next.After(now) {
			continue
		}
		due[st] = p
		p.next = now.Add(p.pause)
		p.pause = min(2*p.pause, sweepLast)
		s.lingering[st] = p
	}
	return due
}

// shrink gives back the buffers of streams nobody has read from since the last
// time. yamux keeps them at their largest for the life of a stream. It waits
// for a frame that is just coming in.
func (s *Session) shrink() {
	s.mu.Lock()
	var idle []*Stream
	for st := range s.streams {
		switch {
		case st.ys == nil:
		case st.touched.Swap(false):
			st.slim = false
		case !st.slim:
			st.slim = true
			idle = append(idle, st)
		}
	}
	s.mu.Unlock()
	for _, st := range idle {
		st.ys.Shrink()
	}
}
