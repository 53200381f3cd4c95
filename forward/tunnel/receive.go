package tunnel

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/culvert-k8s/culvert/forward"
)

// receiving is the half of a stream that comes in. The session's receiver puts
// in what the peer sends, one reader takes it out and with that gives the peer
// new credit. Everything is under the stream's mu.
type receiving struct {
	box    inbox
	window int       // what the peer may have under way and unread, at most
	grant  int       // what it may still send
	owed   int       // read and not granted again yet
	grown  int       // what window was enlarged by
	fixed  bool      // it does not grow (any more)
	read   int       // of the current half of the window
	since  time.Time // when that began
	fin    bool
	sawEOF bool
	taken  int   // what the reader's buffer takes, as long as it has not come back for more
	lost   error // of the session, once it was told: it stays, whatever still comes in

	ready chan struct{} // holds one; tells the reader to look again

	give   func(p []byte) int // of a reader that waits and lets small pieces be pushed
	giving bool               // the receiver is in give
}

// fresh sets the credit that the peer begins with.
func (r *receiving) fresh(mem *Memory, window int) {
	r.box.mem = mem
	r.window, r.grant = window, window
	r.ready = make(chan struct{}, 1)
}

// Read reads what the peer wrote. With an empty p it waits until there is
// something to read, or an error.
func (st *Stream) Read(p []byte) (int, error) {
	st.reading.Lock()
	defer st.reading.Unlock()
	for {
		if err := st.await(); err != nil {
			return 0, err
		}
		if n := st.consume(p); n > 0 || len(p) == 0 {
			return n, nil
		}
	}
}

// ReadLazy waits for data, then borrows a buffer and reads into it; see
// forward.LazyReader.
func (st *Stream) ReadLazy(borrow func() []byte, release func()) (int, error) {
	return st.ReadPush(borrow, release, nil)
}

// ReadPush is ReadLazy that gives what comes in small pieces to push; see
// forward.PushReader.
func (st *Stream) ReadPush(borrow func() []byte, release func(), push func(p []byte) int) (int, error) {
	st.reading.Lock()
	defer st.reading.Unlock()
	if err := st.awaitGiving(push); err != nil {
		return 0, err
	}
	n := st.consume(borrow())
	if n == 0 { // the stream was ended just now
		release()
	}
	return n, nil
}

// Ready tells whether a Read would not wait now: there is something to read, or an
// end or an error. It is for the reader, as Read is.
func (st *Stream) Ready() bool {
	there, err := st.readable(nil)
	return there || err != nil
}

// await waits until there is something to read, or until that will never be.
func (st *Stream) await() error { return st.awaitGiving(nil) }

// awaitPush is await for a caller that is not in Read.
func (st *Stream) awaitPush(give func(p []byte) int) error {
	st.reading.Lock()
	defer st.reading.Unlock()
	return st.awaitGiving(give)
}

// awaitGiving is await, except that small pieces that come in meanwhile are given
// to give, unless that is nil.
func (st *Stream) awaitGiving(give func(p []byte) int) error {
	for {
		there, err := st.readable(give)
		if there || err != nil {
			return err
		}
		wait(st.in.ready, &st.readBy)
		if give != nil {
			st.stopGiving()
		}
	}
}

// stopGiving waits until the receiver is out of give, which is soon, and keeps it
// out.
func (st *Stream) stopGiving() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.in.give = nil
	for st.in.giving {
		st.mu.Unlock()
		<-st.in.ready // the receiver sees that it was asked to stop
		st.mu.Lock()
	}
}

// readable tells whether there is something to read, or why there will be
// nothing.
//
// What a lost session brought is still given out, unless it was ended on this
// side: a peer that ends its streams and then the session must not cut them
// short. The end of a stream that was not seen before is not told any more.
func (st *Stream) readable(give func(p []byte) int) (bool, error) {
	if err := st.closedErr(); err != nil {
		return false, err
	}
	if late(&st.readBy) {
		return false, os.ErrDeadlineExceeded
	}
	lost := st.sess.dead.Load() // before the look at what came in
	if lost != nil && st.sess.closing.Load() {
		return false, lost
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.in.taken = 0
	switch {
	case st.byPeer:
		return false, st.resetErr()
	case st.in.lost != nil:
		return false, st.in.lost
	case st.in.box.size > 0:
		return true, nil
	case st.in.fin && (lost == nil || st.in.sawEOF):
		st.in.sawEOF = true
		return false, io.EOF
	case lost != nil:
		st.in.lost = lost
		return false, lost
	}
	st.in.give = give
	return false, nil
}

func (st *Stream) resetErr() error {
	return fmt.Errorf("stream to %s: %w", st.sess.RemoteAddr(), forward.ErrReset)
}

// consume reads into p without waiting.
func (st *Stream) consume(p []byte) (n int) {
	st.mu.Lock()
	whole := st.in.box.detach(len(p)) // copied without the lock: the receiver must not wait for that
	for c := whole; c != nil; c = c.next {
		n += c.w - c.r
	}
	if whole == nil {
		n = st.in.box.read(p)
	}
	st.in.taken = cap(p)
	credit := st.consumed(n)
	st.mu.Unlock()
	for c := whole; c != nil; c = c.next {
		p = p[copy(p, c.rest()):]
	}
	st.in.box.mem.takeBack(whole)
	st.giveCredit(credit)
	return n
}

// deliver takes what the receiver has for the stream; last says that a frame ends
// with it. It tells whether the reader has to be woken for it, sooner or later.
func (st *Stream) deliver(p []byte, last bool) (wake bool) {
	st.mu.Lock()
	credit := 0
	if last && st.in.give != nil && len(p) <= pushLimit && st.in.box.size == 0 && st.wanted() {
		n, stopped := st.handOver(p)
		credit = st.consumed(n)
		p, wake = p[n:], stopped
	}
	switch {
	case len(p) == 0:
	case st.wanted():
		wake = true
		st.in.box.put(p)
	case st.state.Load() == streamClosed: // the peer may bring it to its end
		credit = st.consumed(len(p))
	}
	st.mu.Unlock()
	st.giveCredit(credit)
	return wake
}

// handOver calls the reader's give, with mu held before and after. stopped tells that
// the reader wants to leave.
func (st *Stream) handOver(p []byte) (n int, stopped bool) {
	give := st.in.give
	st.in.giving = true
	st.mu.Unlock()
	n = give(p)
	st.mu.Lock()
	st.in.giving = false
	return n, st.in.give == nil
}

// wanted tells whether anybody may still read what comes in.
func (st *Stream) wanted() bool {
	return !st.in.fin && !st.byPeer && st.state.Load() == streamOpen
}

// deliverChunk is deliver for a chunk; it takes the chunk over if it can use
// it, and then returns true.
func (st *Stream) deliverChunk(c *chunk) bool {
	st.mu.Lock()
	took := st.wanted() && st.in.box.take(c)
	st.mu.Unlock()
	if !took {
		st.deliver(c.rest(), false)
	}
	return took
}

// peerFinished notes that the peer ended its direction.
func (st *Stream) peerFinished() {
	st.mu.Lock()
	st.in.fin = true
	closed := st.state.Load() != streamOpen
	st.mu.Unlock()
	notify(st.in.ready)
	if closed {
		st.sess.remove(st)
	}
}

// peerReset notes that the peer reset the stream.
func (st *Stream) peerReset() {
	st.mu.Lock()
	st.byPeer = true
	st.in.box.drop()
	closed := st.state.Load() != streamOpen
	st.mu.Unlock()
	st.goneOnce.Do(func() { close(st.gone) })
	st.wake()
	if closed {
		st.sess.remove(st)
	}
}

// wake makes whoever waits look again.
func (st *Stream) wake() {
	notify(st.in.ready)
	notify(st.out.room)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wait waits for c, or until the deadline has passed.
func wait(c <-chan struct{}, by *deadline) {
	until := by.Load()
	if until == nil {
		<-c
		return
	}
	t := time.NewTimer(time.Until(*until))
	defer t.Stop()
	select {
	case <-c:
	case <-t.C:
	}
}

// mayFinish tells whether the peer has not ended its direction before.
func (st *Stream) mayFinish() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return !st.in.fin
}
