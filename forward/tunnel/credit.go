package tunnel

import "time"

// consumed counts n bytes as read and returns the credit to give for them now.
// Called with mu held.
func (st *Stream) consumed(n int) (credit int) {
	r := &st.in
	r.owed += n
	if r.fin {
		return 0
	}
	st.shrink()
	more := st.grow(n)
	if more == 0 && r.owed < r.batch() {
		return 0
	}
	credit, r.owed = r.owed+more, 0
	r.grant += credit
	return credit
}

// batch is how much credit is given at once. What is held back is missing from the
// window: with half of it held back, as is usual, a sender that waits for credit gets
// half a window for each round trip.
func (r *receiving) batch() int { return max(r.window/8, min(r.window, lanWindow)/4) }

// grow enlarges the window of a stream that has used half of it within two round
// trips: then its sender waits for credit, and not for the path (one would do if credit
// and data were never late). The window doubles,
// or becomes at once what another stream of the session has filled before. It returns
// what the window grew by.
func (st *Stream) grow(n int) int {
	r := &st.in
	most := int(st.sess.cfg.MaxWindow) - r.window
	if r.fixed || most <= 0 {
		return 0
	}
	if r.since.IsZero() {
		r.since = time.Now()
	}
	if r.read += n; r.read < r.window/2 {
		return 0
	}
	now, path := time.Now(), &st.sess.path
	took := now.Sub(r.since)
	r.since, r.read = now, 0
	if took > 2*path.roundTrip(now, st.sess.out) {
		return 0
	}
	more := min(max(r.window, int(path.window.Load())-r.window), most)
	if !r.box.mem.reserve(more) {
		return 0
	}
	r.window += more
	r.grown += more
	path.window.Store(int64(r.window))
	return more
}

// shrink takes back what the window grew by, as far as it is read and not granted
// again, while there is little memory left.
func (st *Stream) shrink() {
	r := &st.in
	if r.grown == 0 || !r.box.mem.crowded() {
		return
	}
	less := min(r.owed, r.grown)
	r.owed -= less
	r.window -= less
	r.grown -= less
	r.box.mem.release(less)
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
