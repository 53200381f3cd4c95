package tunnel

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"

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
//
// A Stream exists from its SYN on, whoever sent that: what follows it may come
// in before Open or Accept have returned.
type Stream struct {
	sess *Session
	id   uint32
	ys   *yamux.Stream // set before Open or Accept hand the stream out

	reading, writing sync.Mutex // held by whoever reads, and writes
	state            atomic.Int32

	mu     sync.Mutex
	in     receiving
	out    sending
	byPeer bool // the peer reset it
	charge charge

	gone     chan struct{} // closed when the stream was reset, by either end
	goneOnce sync.Once
	finOnce  sync.Once // CloseWrite
	known    bool      // it counts; under the session's mu
	handed   bool      // somebody has it, and will close it; under the session's mu

	// nil: none.
	readBy, writeBy deadline
}

const (
	streamOpen int32 = iota
	streamClosed
	streamReset
)

var _ net.Conn = (*Stream)(nil)

func newStream(s *Session) *Stream {
	st := &Stream{sess: s, gone: make(chan struct{})}
	st.in.fresh(s.cfg.Memory, s.window)
	st.in.fixed = s.cfg.Window != 0
	st.out.fresh()
	return st
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

// end changes the state of an open stream and lets everybody go. It is false
// if the stream was ended before; peerDone tells whether the peer has ended its
// direction too.
func (st *Stream) end(state int32) (first, peerDone bool) {
	st.mu.Lock()
	first = st.state.CompareAndSwap(streamOpen, state)
	peerDone = st.in.fin || st.byPeer
	credit := 0
	if first {
		credit = st.consumed(st.in.box.size)
		st.in.box.drop()
	}
	st.mu.Unlock()
	if !first {
		return false, peerDone
	}
	st.goneOnce.Do(func() { close(st.gone) })
	st.wake()
	if state == streamClosed {
		st.giveCredit(credit)
	}
	return true, peerDone
}

// Close ends the stream. What was written is still delivered. What the peer
// goes on to write is discarded for the session's Linger, then its end is
// reset.
func (st *Stream) Close() error {
	first, peerDone := st.end(streamClosed)
	if !first {
		return nil
	}
	lost := st.sess.dead.Load() != nil // then the stream has ended with its session
	if !lost {
		st.finish()
	}
	if peerDone || lost {
		st.sess.remove(st)
	} else {
		st.sess.linger(st)
	}
	return nil
}

// Reset aborts the stream at both ends, at once: readers and writers here and
// there return forward.ErrReset, and what was in flight is lost.
func (st *Stream) Reset() error {
	if first, _ := st.end(streamReset); !first {
		return nil
	}
	if st.sess.dead.Load() == nil {
		st.sess.abort(st.id)
	}
	st.sess.remove(st)
	return nil
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

// ID returns the number of the stream in its session.
func (st *Stream) ID() uint32 { return st.id }

// LocalAddr returns the address of this end of the tunnel.
func (st *Stream) LocalAddr() net.Addr { return st.sess.LocalAddr() }

// RemoteAddr returns the address of the peer of the tunnel.
func (st *Stream) RemoteAddr() net.Addr { return st.sess.RemoteAddr() }
