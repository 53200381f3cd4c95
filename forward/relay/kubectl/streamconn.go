package kubectl

import (
	"errors"
	"io"
	"net"
	"sync"

	"github.com/culvert-k8s/culvert/forward"
)

var errFinished = errors.New("write after CloseWrite")

// streamConn is the client's side of one forwarded connection, as its pod's side
// sees it. The session's reader fills it.
type streamConn struct {
	out  *outbound
	lane *lane

	// sayFinished tells the client that the pod has finished; sayReset tells it
	// that the connection was aborted.
	sayFinished func()
	sayReset    func(cause error)

	mu       sync.Mutex
	wake     sync.Cond // for a reader, and for who waits for an abort
	in       queue
	ended    bool  // the client has finished
	drained  bool  // and that was read
	finished bool  // CloseWrite was called
	err      error // why the connection is over; net.ErrClosed itself after a clean end
}

var (
	_ forward.LazyReader  = (*streamConn)(nil)
	_ forward.AbortWaiter = (*streamConn)(nil)
)

func newStreamConn(out *outbound, id uint32, s *store) *streamConn {
	c := &streamConn{out: out, lane: out.newLane(id), in: queue{store: s}}
	c.wake.L = &c.mu
	return c
}

// Read implements forward.Conn.
func (c *streamConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) == 0 {
		return 0, c.err
	}
	if err := c.waitIn(); err != nil {
		return 0, err
	}
	return c.take(p), nil
}

// ReadLazy implements forward.LazyReader.
func (c *streamConn) ReadLazy(borrow func() []byte, release func()) (int, error) {
	c.mu.Lock()
	err := c.waitIn()
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	p := borrow()
	c.mu.Lock()
	n := 0
	if err = c.err; err == nil {
		n = c.take(p)
	}
	c.mu.Unlock()
	if n == 0 {
		release()
	}
	return n, err
}

// waitIn waits until there is data, and returns an error if there never will be.
func (c *streamConn) waitIn() error {
	for {
		switch {
		case c.err != nil:
			return c.err
		case c.in.size > 0:
			return nil
		case c.ended:
			c.drained = true
			return io.EOF
		}
		c.wake.Wait()
	}
}

func (c *streamConn) take(p []byte) int {
	n := c.in.take(p)
	c.in.store.nudge()
	return n
}

// WaitAbort implements forward.AbortWaiter.
func (c *streamConn) WaitAbort() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil {
		c.wake.Wait()
	}
	if c.err == net.ErrClosed { //nolint:errorlint // as it is: closed after both ends
		return nil
	}
	return c.err
}

// Write implements forward.Conn. It returns when the session has taken p over, and
// that is before the client has it.
func (c *streamConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	err := c.err
	if err == nil && c.finished {
		err = errFinished
	}
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := c.out.write(c.lane, p)
	if err == nil || errors.Is(err, forward.ErrReset) {
		return n, err
	}
	return n, forward.ResetBy(err)
}

// CloseWrite implements forward.Conn.
func (c *streamConn) CloseWrite() error {
	c.mu.Lock()
	err, first := c.err, !c.finished
	c.finished = c.finished || err == nil
	c.mu.Unlock()
	if err == nil && first {
		c.sayFinished()
	}
	return err
}

// Reset implements forward.Conn.
func (c *streamConn) Reset(cause error) error {
	if c.abort(forward.ResetBy(cause)) {
		c.sayReset(cause)
	}
	return nil
}

// Close implements forward.Conn.
func (c *streamConn) Close() error {
	c.mu.Lock()
	clean := c.drained && c.finished
	c.mu.Unlock()
	if !clean {
		return c.Reset(net.ErrClosed)
	}
	c.abort(net.ErrClosed)
	return nil
}

// abort ends the connection on this side. It returns false if that has been done
// before; the first cause stays.
func (c *streamConn) abort(cause error) bool {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = cause
		c.in.drop()
		c.wake.Broadcast()
		c.in.store.nudge()
	}
	c.mu.Unlock()
	if first {
		c.out.closeLane(c.lane, cause)
	}
	return first
}

// leave is abort on behalf of the client, unless nothing was left that it could
// abort: both sides had finished.
func (c *streamConn) leave(cause, afterFinish error) {
	c.mu.Lock()
	over := c.ended && c.finished
	if c.finished {
		cause = afterFinish
	}
	c.mu.Unlock()
	if !over {
		c.abort(forward.ResetBy(cause))
	}
}

// peerFinished notes that the client has sent everything.
func (c *streamConn) peerFinished() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.wake.Broadcast()
}

// space returns room for data from the client. It returns nil and true while there
// is none, and nil and false if no data is taken any more.
func (c *streamConn) space(limit int) (room []byte, open bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.ended {
		return nil, false
	}
	if c.in.size >= limit {
		return nil, true
	}
	return c.in.space(), true
}

// filled says that n bytes of the space are data.
func (c *streamConn) filled(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in.filled(n)
	if c.err != nil {
		c.in.drop()
		return
	}
	if n > 0 {
		c.wake.Signal()
	}
}
