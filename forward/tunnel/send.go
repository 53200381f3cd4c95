package tunnel

import (
	"errors"
	"net"
	"os"
	"time"
)

// sending is the half of a stream that goes out. Under the stream's mu.
type sending struct {
	credit   uint32 // what the peer takes now
	finished bool   // the end of this direction was sent, or is about to be
	waiting  int    // what the buffer of a writer takes that waits for credit

	room chan struct{} // holds one; tells the writer to look again
	lent chunk         // the writer's buffer, while it is written from
}

func (s *sending) fresh() {
	s.credit = initialCredit
	s.room = make(chan struct{}, 1)
}

// Write returns when p is on its way, at the latest when the peer has granted
// the credit for it.
func (st *Stream) Write(p []byte) (int, error) { return st.write(p, false) }

// WriteSoon is Write for what is followed by more at once: unless something
// else leaves earlier, p may wait half a millisecond, so that both go in one
// packet.
func (st *Stream) WriteSoon(p []byte) (int, error) { return st.write(p, true) }

// write writes p; company says that something follows it at once.
func (st *Stream) write(p []byte, company bool) (int, error) {
	st.writing.Lock()
	defer st.writing.Unlock()
	written := 0
	for written < len(p) {
		if late(&st.writeBy) {
			return written, os.ErrDeadlineExceeded
		}
		n, err := st.frame(p[written:], company)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// push is Write, except that a deadline that has passed does not stop it as
// long as there is credit.
func (st *Stream) push(p []byte) (int, error) {
	st.writing.Lock()
	defer st.writing.Unlock()
	written := 0
	for written < len(p) {
		n, err := st.frame(p[written:], false)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// frame sends as much of p as one frame takes and the peer has room for.
func (st *Stream) frame(p []byte, company bool) (int, error) {
	n, err := st.takeCredit(min(len(p), muxFrame), cap(p))
	if err != nil {
		return 0, err
	}
	st.sess.out.frame(st.id, p[:n], company && n == len(p))
	if d := st.sess.dead.Load(); d != nil { // a dead carrier takes everything
		return 0, d
	}
	return n, nil
}

// TryWrite writes p, which should be small, if that can be done without waiting:
// the peer has granted the credit, and there is room. It returns len(p) or 0.
func (st *Stream) TryWrite(p []byte) int {
	if !st.writing.TryLock() {
		return 0
	}
	defer st.writing.Unlock()
	if st.closedErr() != nil || late(&st.writeBy) || !st.grabAll(len(p)) {
		return 0
	}
	if !st.sess.out.tryFrame(st.id, p) {
		st.addCredit(uint32(len(p)))
		return 0
	}
	return len(p)
}

func (st *Stream) grabAll(n int) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.byPeer || st.out.finished || uint64(n) > uint64(st.out.credit) {
		return false
	}
	st.out.credit -= uint32(n)
	return true
}

// takeCredit takes credit for at most n bytes, and waits until there is some. The
// writer's buffer takes room meanwhile.
func (st *Stream) takeCredit(n, room int) (int, error) {
	for {
		if err := st.closedErr(); err != nil {
			return 0, err
		}
		if d := st.sess.dead.Load(); d != nil {
			return 0, d
		}
		if got, err := st.grab(n); got > 0 || err != nil {
			return got, err
		}
		if late(&st.writeBy) {
			return 0, os.ErrDeadlineExceeded
		}
		st.awaitCredit(room)
	}
}

// awaitCredit waits until it is worth looking for credit again.
func (st *Stream) awaitCredit(room int) {
	mem, began := st.sess.cfg.Memory, time.Now()
	mem.waiting.Add(1)
	st.waitsWith(room)
	wait(st.out.room, &st.writeBy)
	st.waitsWith(0)
	mem.waiting.Add(-1)
	mem.waited.Add(int64(time.Since(began)))
}

func (st *Stream) grab(n int) (int, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.byPeer:
		return 0, st.resetErr()
	case st.out.finished:
		return 0, net.ErrClosed
	}
	n = int(min(uint32(n), st.out.credit))
	st.out.credit -= uint32(n)
	return n, nil
}

// addCredit notes that the peer takes n bytes more. More than can be counted is
// as much as can be counted.
func (st *Stream) addCredit(n uint32) {
	if n == 0 {
		return
	}
	st.mu.Lock()
	before := st.out.credit
	st.out.credit += n
	if st.out.credit < n {
		st.out.credit = ^uint32(0)
	}
	st.mu.Unlock()
	if before == 0 {
		notify(st.out.room)
	}
}

// WriteLast writes p and ends this direction, in one packet where it can.
//
// p holds the end mark of the stream. A peer that hangs up on purpose meanwhile
// did so because it has it: had it still waited for more it would have said so
// by a reset. So that is no error; one that broke off is.
func (st *Stream) WriteLast(p []byte) (int, error) {
	n, err := st.write(p, true)
	if err == nil {
		err = st.CloseWrite()
	}
	if errors.Is(err, ErrHungUp) {
		return len(p), nil
	}
	return n, err
}

// CloseWrite ends this direction: the peer reads what was written and then
// io.EOF. Reading goes on for as long as the peer likes.
func (st *Stream) CloseWrite() error {
	if err := st.closedErr(); err != nil {
		return err
	}
	if d := st.sess.dead.Load(); d != nil {
		return d
	}
	st.finish()
	return nil
}

// finish sends the end of this direction, behind everything written.
func (st *Stream) finish() {
	st.finOnce.Do(func() {
		st.mu.Lock()
		st.out.finished = true
		st.mu.Unlock()
		notify(st.out.room)
		_ = st.ys.Close() // never fails, and does not wait for the connection
	})
}
