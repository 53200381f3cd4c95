package forwardtest

import (
	"errors"
	"io"
	"net"
	"sync"

	"github.com/culvert-k8s/culvert/forward"
)

// PipeBuffer is how many bytes each direction of a Pipe holds before Write blocks.
const PipeBuffer = 16 << 10

// Pipe returns the two ends of a connection in memory. It keeps the contract of forward.Conn to the letter,
// is a LazyReader, a FrameWriter and an AbortWaiter, and starts no goroutine. All its waiting is durably
// blocking in the sense of testing/synctest.
//
// A reset is stricter than on a network: the peer gets nothing of what it had not read yet.
func Pipe() (a, b forward.Conn) {
	l := &link{}
	l.wake.L = &l.mu
	return &pipeEnd{link: l, in: &l.ba, out: &l.ab}, &pipeEnd{link: l, in: &l.ab, out: &l.ba}
}

// link is what both ends share; one lock guards all of it.
type link struct {
	mu     sync.Mutex
	wake   sync.Cond // something changed
	ab, ba flow
}

// flow is one direction. writeErr and readErr belong to its two users and stay once set.
type flow struct {
	data     []byte
	finished bool // CloseWrite
	drained  bool // io.EOF was read
	writeErr error
	readErr  error
}

type pipeEnd struct {
	link    *link
	in, out *flow
}

var (
	errFinished = errors.New("write after CloseWrite")
	errByPeer   = forward.ResetBy(errors.New("by peer"))
)

func (e *pipeEnd) Read(p []byte) (int, error) {
	l := e.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(p) == 0 {
		return 0, e.in.readErr
	}
	if err := e.waitIn(); err != nil {
		return 0, err
	}
	return e.take(p), nil
}

// ReadLazy implements forward.LazyReader.
func (e *pipeEnd) ReadLazy(borrow func() []byte, release func()) (int, error) {
	l := e.link
	l.mu.Lock()
	err := e.waitIn()
	l.mu.Unlock()
	if err != nil {
		return 0, err
	}
	p := borrow() // outside of the lock: it is the caller's code
	l.mu.Lock()
	err = e.in.readErr
	n := 0
	if err == nil {
		n = e.take(p)
	}
	l.mu.Unlock()
	if n == 0 {
		release()
	}
	return n, err
}

// WaitAbort implements forward.AbortWaiter.
func (e *pipeEnd) WaitAbort() error {
	l := e.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for e.out.writeErr == nil {
		l.wake.Wait()
	}
	if e.out.writeErr == net.ErrClosed { // closed after both ends; an abort says ErrReset
		return nil
	}
	return e.out.writeErr
}

// waitIn waits until there is data, and returns an error if there never will be.
func (e *pipeEnd) waitIn() error {
	for {
		switch {
		case e.in.readErr != nil:
			return e.in.readErr
		case len(e.in.data) > 0:
			return nil
		case e.in.finished:
			e.in.drained = true
			return io.EOF
		}
		e.link.wake.Wait()
	}
}

func (e *pipeEnd) take(p []byte) int {
	n := copy(p, e.in.data)
	e.in.data = e.in.data[:copy(e.in.data, e.in.data[n:])]
	e.link.wake.Broadcast()
	return n
}

func (e *pipeEnd) Write(p []byte) (int, error) {
	l := e.link
	l.mu.Lock()
	defer l.mu.Unlock()
	total := 0
	for {
		switch {
		case e.out.writeErr != nil:
			return total, e.out.writeErr
		case e.out.finished:
			return total, errFinished
		case total == len(p):
			return total, nil
		}
		if n := min(len(p)-total, PipeBuffer-len(e.out.data)); n > 0 {
			e.out.data = append(e.out.data, p[total:total+n]...)
			total += n
			l.wake.Broadcast()
			continue
		}
		l.wake.Wait()
	}
}

// WriteFrame implements forward.FrameWriter. It spoils the headroom, as a real header would.
func (e *pipeEnd) WriteFrame(b []byte) (int, error) {
	for i := range b[:forward.Headroom] {
		b[i] = 0xff
	}
	return e.Write(b[forward.Headroom:])
}

func (e *pipeEnd) CloseWrite() error {
	l := e.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.out.writeErr != nil {
		return e.out.writeErr
	}
	e.out.finished = true
	l.wake.Broadcast()
	return nil
}

func (e *pipeEnd) Reset(cause error) error {
	l := e.link
	l.mu.Lock()
	defer l.mu.Unlock()
	e.abort(cause)
	return nil
}

func (e *pipeEnd) Close() error {
	l := e.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if !e.in.drained || !e.out.finished {
		e.abort(net.ErrClosed)
		return nil
	}
	stop(&e.in.readErr, net.ErrClosed)
	stop(&e.out.writeErr, net.ErrClosed)
	l.wake.Broadcast()
	return nil
}

func (e *pipeEnd) abort(cause error) {
	if e.in.readErr != nil { // ended before; the first cause stays
		return
	}
	cause = forward.ResetBy(cause)
	stop(&e.in.readErr, cause)
	stop(&e.out.writeErr, cause)
	stop(&e.in.writeErr, errByPeer)
	if !e.out.drained { // an end that was read stays an end
		stop(&e.out.readErr, errByPeer)
	}
	e.in.data, e.out.data = nil, nil
	e.link.wake.Broadcast()
}

func stop(where *error, err error) {
	if *where == nil {
		*where = err
	}
}
