package tunnel

import (
	"time"
)

const (
	sweepEvery = 100 * time.Millisecond // streams that linger are looked after this often
	shrinkIdle = 5 * time.Second        // a stream nobody read from for this long gives its buffer back
)

// watch keeps an eye on the session until it ends: is the peer alive, has the
// peer ended the streams that were closed here, which streams are idle.
func (s *Session) watch() {
	live := liveness{cfg: s.cfg, car: s.car, in: s.in, out: s.out, ticked: time.Now()}
	tick := s.cfg.PingAfter / 5
	beat := time.NewTimer(tick)
	defer beat.Stop()
	sweep := time.NewTimer(time.Hour)
	sweep.Stop()
	defer sweep.Stop()
	shrunk := time.Now()
	for {
		select {
		case <-s.done:
			return
		case <-s.nudge:
			sweep.Reset(sweepEvery)
		case now := <-sweep.C:
			if s.sweep(now) {
				sweep.Reset(sweepEvery)
			}
		case now := <-beat.C:
			if err := live.tick(now); err != nil {
				s.fail(err)
				return
			}
			if s.in.waiting() { // make something come in
				s.out.inject(muxControl(typePing, flagSYN, 0, 0))
			}
			if now.Sub(shrunk) >= shrinkIdle {
				shrunk = now
				s.shrink()
			}
			beat.Reset(tick)
		}
	}
}

// linger hands a stream that was ended here to watch, until its peer has ended
// it too.
func (s *Session) linger(st *Stream) {
	s.mu.Lock()
	first := len(s.lingering) == 0
	if _, known := s.streams[st]; known {
		s.lingering[st] = time.Now().Add(s.cfg.Linger)
	}
	s.mu.Unlock()
	if first {
		select {
		case s.nudge <- struct{}{}:
		default:
		}
	}
}

// sweep discards what came for streams that were ended here, forgets those
// the peer has ended and resets those it had time enough to. It tells whether
// any are left.
func (s *Session) sweep(now time.Time) bool {
	s.mu.Lock()
	waiting := make(map[*Stream]time.Time, len(s.lingering))
	for st, until := range s.lingering {
		waiting[st] = until
	}
	s.mu.Unlock()
	for st, until := range waiting {
		switch {
		case st.ended():
			s.remove(st)
		case now.After(until):
			s.abort(st.ID())
			s.remove(st)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lingering) > 0
}

// shrink gives back the buffers of streams nobody has read from since the last
// time. yamux keeps them at their largest for the life of a stream.
func (s *Session) shrink() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		switch {
		case st.ys == nil:
		case st.touched.Swap(false):
			st.slim = false
		case !st.slim:
			st.ys.Shrink()
			st.slim = true
		}
	}
}
