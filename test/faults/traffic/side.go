package traffic

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// ending is how a direction ended, as its reader saw it.
type ending uint8

const (
	open   ending = iota
	eof           // the peer finished
	broken        // a reset, or another error of the connection
	own           // this end aborted
)

func (e ending) String() string { return [...]string{"open", "end", "broken", "own abort"}[e] }

// side is one end of a connection: what it did, and what it saw.
type side struct {
	steps   []step
	out, in uint64 // seeds of what it sends and of what it should get

	mu       sync.Mutex
	moved    sync.Cond
	at       int // step
	sent     int64
	got      int64
	wrong    int64 // offset of the first wrong byte; -1
	finished bool
	aborted  bool
	end      ending
	readErr  error
	writeErr error
}

// errWrong ends a connection that brought a wrong byte.
var errWrong = errors.New("a wrong byte came")

func newSide(steps []step, out, in uint64) *side {
	s := &side{steps: steps, out: out, in: in, wrong: -1}
	s.moved.L = &s.mu
	return s
}

// chunk is how much is written or read at once.
const chunk = 16 << 10

// run takes its steps, reads all the time, and returns when both directions have
// ended and the connection is closed. quiet cuts what holds short.
func (s *side) run(conn *net.TCPConn, quiet func() <-chan struct{}) {
	var reading sync.WaitGroup
	reading.Go(func() { s.read(conn) })
	for i, step := range s.steps {
		s.note(func() { s.at = i })
		if !s.take(conn, step, quiet) {
			break
		}
	}
	reading.Wait()
	conn.Close()
}

// note changes what is known under the lock and tells whoever waits for it.
func (s *side) note(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.moved.Broadcast()
}

// take makes one step; false if the connection is over.
func (s *side) take(conn *net.TCPConn, step step, quiet func() <-chan struct{}) bool {
	switch step.do {
	case send:
		return s.write(conn, step.n)
	case await:
		if !s.await(func() bool { return s.got >= step.n }) {
			return false
		}
		if s.short(step.n) { // the judge says whether that may be
			s.abandon(conn)
			return false
		}
	case awaitEnd:
		return s.await(func() bool { return false })
	case hold:
		if step.d > 0 {
			timer := time.NewTimer(step.d)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-quiet():
			}
		}
	case finish:
		s.note(func() { s.finished = true })
		if err := conn.CloseWrite(); err != nil {
			s.note(func() { s.writeErr = err })
			return false
		}
	case abort:
		s.kill(conn)
		return false
	}
	return true
}

// kill resets the connection.
func (s *side) kill(conn *net.TCPConn) {
	s.note(func() { s.aborted = true })
	conn.SetLinger(0)
	conn.Close()
}

// short tells whether less than n bytes have come.
func (s *side) short(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got < n
}

// abandon breaks off what makes no sense any more.
func (s *side) abandon(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}

// await waits until enough is true or nothing more will come. What was to come
// and did not is for the judge; only a broken connection ends the steps.
func (s *side) await(enough func() bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !enough() && s.end == open {
		s.moved.Wait()
	}
	return s.end == open || s.end == eof
}

func (s *side) write(conn *net.TCPConn, n int64) bool {
	var buf [chunk]byte
	for n > 0 {
		part := buf[:min(n, chunk)]
		s.mu.Lock()
		offset := s.sent
		s.sent += int64(len(part)) // before the write, since the peer may be quicker
		s.mu.Unlock()
		fill(part, s.out, offset)
		if _, err := conn.Write(part); err != nil {
			s.note(func() { s.writeErr = err })
			return false
		}
		n -= int64(len(part))
	}
	return true
}

func (s *side) read(conn *net.TCPConn) {
	var buf, scratch [chunk]byte
	for {
		n, err := conn.Read(buf[:])
		s.mu.Lock()
		if s.wrong = firstWrong(buf[:n], scratch[:], s.in, s.got); s.wrong >= 0 {
			s.abandon(conn)
			err = errWrong
		}
		s.got += int64(n)
		if err != nil {
			s.readErr = err
			switch {
			case errors.Is(err, io.EOF):
				s.end = eof
			case s.aborted:
				s.end = own
			default:
				s.end = broken
			}
		}
		s.moved.Broadcast()
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// wasReset tells whether writing found the connection broken. Linux tells a reset
// once: who hears it while writing reads an end afterwards.
func (s *side) wasReset() bool {
	return errors.Is(s.writeErr, syscall.ECONNRESET) || errors.Is(s.writeErr, syscall.EPIPE) || errors.Is(s.writeErr, syscall.ENOTCONN)
}
