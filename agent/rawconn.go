package agent

import (
	"errors"
	"io"
	"net"
	"sync/atomic"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
)

// rawConn is a stream that carries bytes without frames: its end is the stream's
// own, and an abort says nothing of its reason. That is enough where what is
// carried has an end of its own, as TLS has.
type rawConn struct {
	st   *tunnel.Stream
	sess *tunnel.Session // of st

	gotEnd   atomic.Bool
	finished atomic.Bool
	aborted  atomic.Pointer[error] // by this side
}

var (
	_ forward.Conn        = (*rawConn)(nil)
	_ forward.LazyReader  = (*rawConn)(nil)
	_ forward.PushReader  = (*rawConn)(nil)
	_ forward.AbortWaiter = (*rawConn)(nil)
)

func (c *rawConn) Read(p []byte) (int, error) {
	n, err := c.st.Read(p)
	return n, c.readErr(err)
}

func (c *rawConn) ReadLazy(borrow func() []byte, release func()) (int, error) {
	return c.ReadPush(borrow, release, nil)
}

func (c *rawConn) ReadPush(borrow func() []byte, release func(), push func([]byte) int) (int, error) {
	n, err := c.st.ReadPush(borrow, release, push)
	return n, c.readErr(err)
}

func (c *rawConn) readErr(err error) error {
	if err == io.EOF && c.aborted.Load() == nil {
		c.gotEnd.Store(true)
		return err
	}
	return c.why(err)
}

// why puts the reason of an abort by this side in the place of its echo.
func (c *rawConn) why(err error) error {
	if a := c.aborted.Load(); a != nil && err != nil {
		return *a
	}
	return err
}

func (c *rawConn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.st.Write(p)
	return n, c.why(err)
}

// CloseWrite ends this direction of the stream.
func (c *rawConn) CloseWrite() error {
	if a := c.aborted.Load(); a != nil {
		return *a
	}
	select {
	case <-c.st.Gone(): // the stream itself would not tell
		return forward.ErrReset
	default:
	}
	c.finished.Store(true)
	return c.why(c.st.CloseWrite())
}

// Reset resets the stream. The peer does not learn the cause.
func (c *rawConn) Reset(cause error) error {
	err := forward.ResetBy(cause)
	if !c.aborted.CompareAndSwap(nil, &err) {
		return nil
	}
	return c.st.Reset()
}

// Close releases the stream. Unless both directions have ended it is
// Reset(net.ErrClosed).
func (c *rawConn) Close() error {
	if !c.finished.Load() || !c.gotEnd.Load() {
		return c.Reset(net.ErrClosed)
	}
	err := net.ErrClosed
	if !c.aborted.CompareAndSwap(nil, &err) {
		return nil
	}
	return c.st.Close()
}

// WaitAbort waits, after the peer finished, for a reset or for the end of the
// session.
func (c *rawConn) WaitAbort() error {
	select {
	case <-c.st.Gone():
	case <-c.sess.Done():
	}
	a := c.aborted.Load()
	switch {
	case a == nil && c.sess.Err() != nil:
		return c.sess.Err()
	case a == nil:
		return forward.ErrReset
	case errors.Is(*a, forward.ErrReset):
		return *a
	}
	return nil // closed after both ends
}
