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
type podConn struct{ forward.Conn }

// wrapPod keeps what c can do beside a forward.Conn, as long as it is all that a
// TCP connection can.
func wrapPod(c forward.Conn) forward.Conn {
	lazy, reads := c.(forward.LazyReader)
	wait, waits := c.(forward.AbortWaiter)
	if reads && waits {
		return &podSocket{podConn{c}, lazy, wait}
	}
	return &podConn{c}
}

func (c *podConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, broken(err)
}

func (c *podConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, broken(err)
}

func (c *podConn) CloseWrite() error { return broken(c.Conn.CloseWrite()) }

// podSocket is a podConn over TCP.
type podSocket struct {
	podConn
	lazy forward.LazyReader
	wait forward.AbortWaiter
}

func (c *podSocket) ReadLazy(borrow func() []byte, release func()) (int, error) {
	n, err := c.lazy.ReadLazy(borrow, release)
	return n, broken(err)
}

func (c *podSocket) WaitAbort() error { return broken(c.wait.WaitAbort()) }

// broken gives an error of the pod's connection its code. What has one already
// is the echo of an abort by this side.
func broken(err error) error {
	switch {
	case err == nil, err == io.EOF:
		return err
	case errors.As(err, new(*stream.Error)):
		return err
	case errors.Is(err, forward.ErrReset):
		return &coded{wire: &stream.Error{Code: stream.PodReset, Text: "the pod reset the connection"}, cause: err}
	}
	return &coded{wire: &stream.Error{Code: stream.Unreachable, Text: "the connection to the pod was lost"}, cause: err}
}
