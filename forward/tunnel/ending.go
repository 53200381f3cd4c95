package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	// flushLimit bounds how long Close waits until what is queued is written.
	flushLimit = time.Second
	// farewellLimit bounds how long Close waits for the peer to hang up.
	farewellLimit = time.Second
)

// fail ends the session with the cause, once.
func (s *Session) fail(cause error) {
	s.stop(cause)
	s.ended.Do(func() {
		s.cfg.Memory.relief.leave(s)
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
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, st := range s.streams {
			st.wake()
		}
	})
}

// broken is where a broken connection meets yamux. No reader waits there, so it
// may shut down at once.
func (s *Session) broken(err error) error {
	if errors.Is(err, io.EOF) {
		// crypto/tls takes the end of the connection for a farewell, also where
		// a process died.
		err = io.ErrUnexpectedEOF
	}
	if s.in.goodbye {
		err = ErrHungUp
	}
	s.fail(err)
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
	err := s.mux.Close() // and with it the receiver
	s.wg.Wait()
	s.forget()
	if err != nil {
		return fmt.Errorf("close session: %w", err)
	}
	return nil
}

// forget drops what came in for streams that nobody has accepted. Nobody will.
func (s *Session) forget() {
	s.mu.Lock()
	s.over = true
	var left []*Stream
	for _, st := range s.streams {
		if !st.handed {
			left = append(left, st)
		}
	}
	s.mu.Unlock()
	for _, st := range left {
		_, _ = st.end(streamReset)
	}
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
