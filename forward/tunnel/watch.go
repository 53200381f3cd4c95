package tunnel

import "time"

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

// tidy looks after the streams that were closed here until the session ends: a
// peer that does not end them too in time is reset.
func (s *Session) tidy() {
	sweep := time.NewTimer(time.Hour)
	sweep.Stop()
	defer sweep.Stop()
	pause := max(s.cfg.Linger/8, time.Millisecond)
	runs := false
	for {
		select {
		case <-s.done:
			return
		case <-s.nudge:
			if !runs {
				runs = true
				sweep.Reset(pause)
			}
		case now := <-sweep.C:
			if runs = s.sweep(now); runs {
				sweep.Reset(pause)
			}
		}
	}
}

// linger hands a stream that was ended here to tidy, until its peer has ended
// it too.
func (s *Session) linger(st *Stream) {
	s.mu.Lock()
	first := len(s.lingering) == 0
	if st.known {
		s.lingering[st] = time.Now().Add(s.cfg.Linger)
	}
	s.mu.Unlock()
	if first {
		notify(s.nudge)
	}
}

// sweep resets the streams whose peers had time enough to end them. It tells
// whether any are left.
func (s *Session) sweep(now time.Time) (left bool) {
	var late []*Stream
	s.mu.Lock()
	for st, until := range s.lingering {
		if now.After(until) {
			late = append(late, st)
		}
	}
	s.mu.Unlock()
	for _, st := range late {
		s.abort(st.id)
		s.remove(st)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lingering) > 0
}
