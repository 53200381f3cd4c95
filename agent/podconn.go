package agent

import (
	"errors"
	"io"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// farConn is the connection to the pod, or to the API server. It puts a code on
// what breaks there, so that the client learns that it was the pod and not the way
// to it: once two connections are joined nobody can tell any more whose error it
// is.
type farConn struct {
	forward.Conn
	broken func(error) error // gives an error its code
}

// wrapPod wraps the connection to a pod.
func wrapPod(c forward.Conn) forward.Conn { return wrapFar(c, brokenPod) }

// wrapFar keeps what c can do beside a forward.Conn, as long as it is all that a
// TCP connection can.
func wrapFar(c forward.Conn, broken func(error) error) forward.Conn {
	lazy, reads := c.(forward.LazyReader)
	try, tries := c.(forward.TryWriter)
	wait, waits := c.(forward.AbortWaiter)
	if reads && tries && waits {
		return &farSocket{farConn{c, broken}, lazy, try, wait}
	}
	return &farConn{c, broken}
}

func (c *farConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.name(err)
}

func (c *farConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.name(err)
}

func (c *farConn) CloseWrite() error { return c.name(c.Conn.CloseWrite()) }

// farSocket is a farConn over TCP.
type farSocket struct {
	farConn
	lazy forward.LazyReader
	try  forward.TryWriter
	wait forward.AbortWaiter
}

func (c *farSocket) TryWrite(p []byte) int { return c.try.TryWrite(p) }

func (c *farSocket) ReadLazy(borrow func() []byte, release func()) (int, error) {
	n, err := c.lazy.ReadLazy(borrow, release)
	return n, c.name(err)
}

func (c *farSocket) WaitAbort() error { return c.name(c.wait.WaitAbort()) }

// name gives an error of the connection its code. What has one already is the echo
// of an abort by this side.
func (c *farConn) name(err error) error {
	if err == nil || err == io.EOF || errors.As(err, new(*stream.Error)) {
		return err
	}
	return c.broken(err)
}

// brokenPod is the code for an error of the pod's connection.
func brokenPod(err error) error {
	if errors.Is(err, forward.ErrReset) {
		return &reach.Error{Wire: &stream.Error{Code: stream.PodReset, Text: "the pod reset the connection"}, Cause: err}
	}
	return &reach.Error{Wire: &stream.Error{Code: stream.Unreachable, Text: "the connection to the pod was lost"}, Cause: err}
}
