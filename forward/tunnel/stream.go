package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/culvert-k8s/culvert/forward"
)

// Stream is one stream of a session: a net.Conn with CloseWrite and Reset.
// One goroutine may read and one may write at a time; everything else may be
// called from any.
//
// Read returns io.EOF only when the peer ended its direction with CloseWrite
// or Close. That the peer did so on purpose is for the layer above to prove:
// see Conn.
type Stream struct {
	sess *Session
	ys   *yamux.Stream // set by attach, under sess.mu

	reading sync.Mutex   // held inside yamux's Read
	touched atomic.Bool  // read since the last sweep
	slim    bool         // its buffer was given back; only tidy touches it
	state   atomic.Int32 // streamOpen and on

	gone     chan struct{} // closed when the stream was reset, by either end
	goneOnce sync.Once

	finOnce sync.Once // CloseWrite
	sawEOF  atomic.Bool

	// Deadlines in Unix nanoseconds, 0 for none. yamux looks at its own only
	// when it has to wait; a net.Conn looks first.
	readBy, writeBy atomic.Int64
}

const (
	streamOpen int32 = iota
	streamClosed
	streamReset
)

var _ net.Conn = (*Stream)(nil)

func newStream(s *Session) *Stream { return &Stream{sess: s, gone: make(chan struct{})} }

func (st *Stream) attach(ys *yamux.Stream) {
	st.sess.mu.Lock()
	st.ys = ys
	st.sess.byID[ys.StreamID()] = st
	st.sess.mu.Unlock()
}

// Read reads what the peer wrote.
func (st *Stream) Read(p []byte) (int, error) {
	st.reading.Lock()
	defer st.reading.Unlock()
	if err := st.closedErr(); err != nil {
		return 0, err
	}
	if late(&st.readBy) {
		return 0, os.ErrDeadlineExceeded
	}
	if st.sess.enter() != nil {
		return st.leftover(p)
	}
	n, err := st.ys.Read(p)
	st.sess.leave()
	if !st.touched.Load() {
		st.touched.Store(true)
	}
	switch {
	case n > 0 || err == nil:
		return n, nil // an error with data is about returning credit; it comes again
	case st.sess.dead.Load() != nil:
		return st.leftover(p)
	}
	return n, st.readErr(err)
}

// leftover reads from a session that has ended. What had come in is still
// given out, unless the session was closed on this side: a peer that ends its
// streams and then the session must not cut them short.
func (st *Stream) leftover(p []byte) (int, error) {
	d := st.sess.dead.Load()
	if st.sess.closing.Load() {
		return 0, d
	}
	if st.sawEOF.Load() {
		return 0, io.EOF
	}
	_ = st.ys.SetDeadline(time.Unix(1, 0)) // not to wait, nor to spin
	if n, err := st.ys.Read(p); n > 0 || err == nil {
		return n, nil
	}
	return 0, d
}

// ReadLazy waits for data, then borrows a buffer and reads into it; see
// forward.LazyReader.
func (st *Stream) ReadLazy(borrow func() []byte, release func()) (int, error) {
	if _, err := st.Read(nil); err != nil { // blocks until there is data, consumes nothing
		return 0, err
	}
	n, err := st.Read(borrow())
	if n == 0 {
		release()
	}
	return n, err
}

func (st *Stream) readErr(err error) error {
	if errors.Is(err, io.EOF) {
		if cerr := st.closedErr(); cerr != nil {
			return cerr
		}
		st.sawEOF.Store(true)
		return io.EOF
	}
	return st.opErr(err)
}

// opErr translates an error of a read or a write.
func (st *Stream) opErr(err error) error {
	if err == nil {
		return nil
	}
	if cerr := st.closedErr(); cerr != nil {
		return cerr
	}
	var timeout *yamux.NetError
	switch {
	case errors.As(err, &timeout):
		// Bare, and of the type that crypto/tls takes for temporary.
		return os.ErrDeadlineExceeded
	case errors.Is(err, yamux.ErrConnectionReset):
		return fmt.Errorf("stream to %s: %w", st.sess.RemoteAddr(), forward.ErrReset)
	case errors.Is(err, yamux.ErrStreamClosed):
		return net.ErrClosed
	}
	return st.sess.translate(err)
}

// closedErr says what became of a stream that was ended on this side.
func (st *Stream) closedErr() error {
	switch st.state.Load() {
	case streamClosed:
		return net.ErrClosed
	case streamReset:
		return forward.ErrReset
	}
	return nil
}

// Write returns when p is on its way, at the latest when the peer has granted
// the credit for it.
func (st *Stream) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		if late(&st.writeBy) {
			return written, os.ErrDeadlineExceeded
		}
		// A frame has no upper bound in yamux; everybody waits behind it.
		n, err := st.push(p[written:min(len(p), written+muxFrame)])
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// push is Write for one frame. A deadline that has passed does not stop it as
// long as there is credit.
func (st *Stream) push(p []byte) (int, error) {
	if err := st.closedErr(); err != nil {
		return 0, err
	}
	if err := st.sess.enter(); err != nil {
		return 0, err
	}
	defer st.sess.leave()
	n, err := st.ys.Write(p)
	if d := st.sess.dead.Load(); d != nil { // a dead carrier takes everything
		return 0, d
	}
	return n, st.opErr(err)
}

// WriteLast writes p and ends this direction, in one packet where it can.
//
// p holds the end mark of the stream. A peer that hangs up on purpose meanwhile
// did so because it has it: had it still waited for more it would have said so
// by a reset. So that is no error; one that broke off is.
func (st *Stream) WriteLast(p []byte) (int, error) {
	st.sess.out.expectEnd(len(p))
	n, err := st.Write(p)
	if err == nil {
		err = st.CloseWrite()
	} else {
		st.sess.out.expectEnd(0)
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
	if err := st.sess.enter(); err != nil {
		return err
	}
	defer st.sess.leave()
	st.finish()
	return nil
}

func (st *Stream) finish() {
	st.finOnce.Do(func() {
		_ = st.ys.Close() // sends the end of this direction and never fails
	})
}

// Close ends the stream. What was written is still delivered. What the peer
// goes on to write is discarded for the session's Linger, then its end is
// reset.
func (st *Stream) Close() error {
	if !st.state.CompareAndSwap(streamOpen, streamClosed) {
		return nil
	}
	st.goneOnce.Do(func() { close(st.gone) })
	return st.retire()
}

// waitGone waits until the stream is reset or closed, or its session lost.
func (st *Stream) waitGone() error {
	select {
	case <-st.gone:
	case <-st.sess.done:
		return st.sess.Err()
	}
	if err := st.closedErr(); err != nil {
		return err
	}
	return fmt.Errorf("stream to %s: %w", st.sess.RemoteAddr(), forward.ErrReset)
}

// retire ends this direction and lets the session see to the rest.
func (st *Stream) retire() error {
	if err := st.sess.enter(); err != nil {
		st.sess.remove(st)
		return nil // the stream has ended with its session
	}
	defer st.sess.leave()
	_ = st.ys.SetDeadline(time.Unix(1, 0)) // lets a reader and a writer go
	st.finish()
	if st.ended() {
		st.sess.remove(st)
		return nil
	}
	st.sess.linger(st)
	return nil
}

// ended discards what has come in and tells whether the peer has ended its
// direction. It does not block. Only a retired stream may be asked.
func (st *Stream) ended() bool {
	if st.sawEOF.Load() {
		return true
	}
	if !st.reading.TryLock() {
		return false // the reader is about to leave
	}
	defer st.reading.Unlock()
	if st.sess.enter() != nil {
		return true
	}
	defer st.sess.leave()
	for range 256 { // at most a megabyte at a time
		if _, err := st.ys.Read(nil); err != nil {
			var timeout *yamux.NetError
			return !errors.As(err, &timeout)
		}
		st.discard()
	}
	return false
}

// discard throws away some of what has come in. Its buffer is not in ended,
// for which most streams' stacks would have to grow.
//
//go:noinline
func (st *Stream) discard() {
	var sink [4096]byte
	_, _ = st.ys.Read(sink[:]) // an error comes again
}

// Reset aborts the stream at both ends, at once: readers and writers here and
// there return forward.ErrReset, and what was in flight is lost.
func (st *Stream) Reset() error {
	if !st.state.CompareAndSwap(streamOpen, streamReset) {
		return nil
	}
	st.goneOnce.Do(func() { close(st.gone) })
	defer st.sess.remove(st)
	if err := st.sess.enter(); err != nil {
		return nil // the stream has ended with its session
	}
	defer st.sess.leave()
	_ = st.ys.SetDeadline(time.Unix(1, 0))
	st.sess.abort(st.ys.StreamID())
	return nil
}

// ID returns the number of the stream in its session.
func (st *Stream) ID() uint32 { return st.ys.StreamID() }

// LocalAddr returns the address of this end of the tunnel.
func (st *Stream) LocalAddr() net.Addr { return st.sess.LocalAddr() }

// RemoteAddr returns the address of the peer of the tunnel.
func (st *Stream) RemoteAddr() net.Addr { return st.sess.RemoteAddr() }
