package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const (
	// releaseLimit bounds how long a dead session waits for its readers to
	// leave before it lets yamux shut down.
	releaseLimit = 2 * time.Second
	// flushLimit bounds how long Close waits until what is queued is written.
	flushLimit = time.Second
	// farewellLimit bounds how long Close waits for the peer to hang up.
	farewellLimit = time.Second
	// stragglers may still be inside when yamux shuts down: it keeps the reader
	// of a stream in whose frame the connection broke, and few do no harm.
	stragglers = 8
)

var errMuxFault = errors.New("peer broke the rules of yamux")

// fail ends the session with the cause, once.
func (s *Session) fail(cause error) {
	s.stop(cause)
	s.ended.Do(func() {
		s.car.cut()
		s.out.close()
		close(s.done)
	})
}

// stop refuses every further operation and lets go those under way.
func (s *Session) stop(cause error) {
	s.stopped.Do(func() {
		s.dead.Store(&lostError{peer: s.car.RemoteAddr().String(), cause: cause})
		s.out.fail(cause)
		past := time.Unix(1, 0)
		s.mu.Lock()
		defer s.mu.Unlock()
		for st := range s.streams {
			if st.ys != nil {
				_ = st.ys.SetDeadline(past)
			}
		}
	})
}

// hold is where a broken connection meets yamux. A yamux session that shuts
// down with readers inside lets them spin until it has marked every stream,
// for minutes if they are many. So the error waits here until all but
// stragglers have left.
func (s *Session) hold(err error) error {
	defer s.heldOnce.Do(func() { close(s.held) })
	if errors.Is(err, io.EOF) {
		// crypto/tls takes the end of the connection for a farewell, also where
		// a process died.
		err = io.ErrUnexpectedEOF
	}
	if s.in.goodbye {
		err = ErrHungUp
	}
	s.fail(err)
	limit := time.NewTimer(releaseLimit)
	defer limit.Stop()
	for s.ops.Load() > stragglers {
		select {
		case <-s.left:
		case <-limit.C:
			return err
		}
	}
	return err
}

// Close ends the session and every stream on it. What was written before is
// still delivered if the peer takes it within a second. It returns when all of
// the session has ended.
func (s *Session) Close() error { return s.CloseWithError(net.ErrClosed) }

// CloseWithError is Close with a cause for the local readers and writers.
func (s *Session) CloseWithError(cause error) error {
	// Of a session the peer has ended, what had come in may still be read.
	alive := s.dead.Load() == nil
	if alive {
		s.closing.Store(true)
		s.out.inject(muxControl(typeGoAway, 0, 0, 0)) // the last word: this is no crash
	}
	if alive && s.out.drain(flushLimit) {
		s.farewell(cause)
	}
	s.fail(cause)
	select {
	case <-s.held: // the readers have left
	case <-s.mux.CloseChan(): // yamux found the fault itself
	}
	err := s.mux.Close()
	s.mu.Lock()   // whoever is about to spawn has done so, or sees the end
	s.mu.Unlock() //nolint:staticcheck // an empty section is the point
	s.wg.Wait()
	if err != nil {
		return fmt.Errorf("close session: %w", err)
	}
	return nil
}

// farewell ends the writing direction of the connection and waits until the
// peer has hung up. To close at once would lose what the kernel has not sent
// yet, should anything come in meanwhile: it answers that with a reset.
func (s *Session) farewell(cause error) {
	c, ok := s.car.raw.(*net.TCPConn)
	if !ok {
		return
	}
	s.stop(cause)
	if c.CloseWrite() != nil {
		return
	}
	limit := time.NewTimer(farewellLimit)
	defer limit.Stop()
	select {
	case <-s.done:
	case <-limit.C:
	}
}

// muxLog is what yamux logs to. It keeps nothing: late frames of a reset stream
// are normal, and errors are returned by this package. But it is the one place
// that hears of a fault before yamux shuts down for it.
type muxLog struct{ s *Session }

func (l muxLog) Printf(format string, _ ...any) {
	for _, fatal := range []string{"duplicate stream declared", "unexpected FIN flag", "receive window exceeded"} {
		if strings.Contains(format, fatal) {
			_ = l.s.hold(fmt.Errorf("%w: %s", errMuxFault, fatal))
		}
	}
}

func (muxLog) Print(...any)   {}
func (muxLog) Println(...any) {}
