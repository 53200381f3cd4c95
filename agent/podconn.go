package agent

import (
	"errors"
	"io"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// podConn is the connection to the pod. It puts a code on what breaks there, so
// that the client learns that it was the pod and not the way to it: once two
// connections are joined nobody can tell any more whose error it is.
type podConn struct {
	forward.Conn
	lazy forward.LazyReader  // nil if Conn is none
	wait forward.AbortWaiter // nil if Conn is none
}

var (
	_ forward.LazyReader  = (*podConn)(nil)
	_ forward.AbortWaiter = (*podConn)(nil)
)

func newPodConn(c forward.Conn) *podConn {
	p := &podConn{Conn: c}
	p.lazy, _ = c.(forward.LazyReader)
	p.wait, _ = c.(forward.AbortWaiter)
	return p
}

func (c *podConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, broken(err)
}

func (c *podConn) ReadLazy(borrow func() []byte, release func()) (n int, err error) {
	if c.lazy != nil {
		n, err = c.lazy.ReadLazy(borrow, release)
		return n, broken(err)
	}
	if n, err = c.Conn.Read(borrow()); n == 0 {
		release()
	}
	return n, broken(err)
}

func (c *podConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, broken(err)
}

func (c *podConn) CloseWrite() error { return broken(c.Conn.CloseWrite()) }

func (c *podConn) WaitAbort() error {
	if c.wait == nil {
		return nil
	}
	return broken(c.wait.WaitAbort())
}

// broken gives an error of the pod's connection its code. What has one already
// is the echo of an abort by this side.
func broken(err error) error {
	switch {
	case err == nil, err == io.EOF: //nolint:errorlint // bare by contract
		return err
	case errors.As(err, new(*stream.Error)):
		return err
	case errors.Is(err, forward.ErrReset):
		return &coded{wire: &stream.Error{Code: stream.PodReset, Text: "the pod reset the connection"}, cause: err}
	}
	return &coded{wire: &stream.Error{Code: stream.Unreachable, Text: "the connection to the pod was lost"}, cause: err}
}
