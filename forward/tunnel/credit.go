package tunnel

import "time"

// consumed counts n bytes as read and returns the credit to give for them now.
// Called with mu held.
func (st *Stream) consumed(n int) (credit int) {
	r := &st.in
	r.owed += n
	if r.owed < r.window/2 || r.fin {
		return 0
	}
	credit, r.owed = r.owed, 0
	credit += st.grow()
	r.grant += credit
	return credit
}

// grow doubles the window of a stream that has used half of it within a round
// trip: then its sender waits for credit, and not for the path. It returns what
// the window grew by.
func (st *Stream) grow() int {
	r, now := &st.in, time.Now()
	took := now.Sub(r.since)
	r.since = now
	most := int(st.sess.cfg.MaxWindow) - r.window
	if r.fixed || most <= 0 || took > st.sess.path.roundTrip(now, st.sess.out) {
		return 0
	}
	more := min(r.window, most)
	if !r.box.mem.reserve(more) {
		return 0
	}
	r.window += more
	r.grown += more
	return more
}

// settle gives back what the window grew by.
func (st *Stream) settle() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.in.fixed = true
	st.in.box.mem.release(st.in.grown)
	st.in.grown = 0
}

// giveCredit tells the peer that it may send more. It does not wait.
func (st *Stream) giveCredit(n int) {
	if n > 0 {
		st.sess.out.inject(muxControl(typeWindow, 0, st.id, uint32(n)))
	}
}

// admit counts a frame of n bytes against the credit of the peer. It is false
// if the peer had not that much.
func (st *Stream) admit(n uint32) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if uint64(n) > uint64(st.in.grant) {
		return false
	}
	st.in.grant -= int(n)
	return true
}
