package netns

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is a TCP connection to a port inside a namespace. It is a net.Conn that tells finishing
// (CloseWrite) from aborting (Reset), and all its methods may be called from any goroutine.
// Errors are a *net.OpError, except a plain io.EOF. A write to a peer that is gone is an error
// (syscall.EPIPE or ECONNRESET), never a signal. Calls on a closed Conn give net.ErrClosed.
//
// The socket stays an *os.File, which is on the same poller as a net.TCPConn, because the net
// package would duplicate the descriptor and ask for its addresses again.
type Conn struct {
	f             *os.File
	raw           syscall.RawConn
	local, remote *net.TCPAddr

	sent, received atomic.Bool // this direction ended in order
	closed         atomic.Bool
}

// Read reads what is there, waiting for at least a byte. io.EOF means that the pod finished.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.f.Read(p)
	if err == io.EOF {
		c.received.Store(true)
		return n, io.EOF
	}
	return n, c.opError("read", err)
}

// ReadLazy is Read without holding a buffer while it waits. It calls borrow when there may be data
// and reads once into what it gets; release gives that buffer back if there was no data after all.
// With n > 0 the buffer is the caller's, otherwise it was released or never borrowed.
func (c *Conn) ReadLazy(borrow func() []byte, release func()) (n int, err error) {
	var failed error
	err = c.raw.Read(func(fd uintptr) bool {
		b := borrow()
		if len(b) == 0 {
			failed = io.ErrShortBuffer
		} else {
			n, failed = read(int(fd), b)
		}
		if n <= 0 {
			n = 0
			release()
		}
		return failed != unix.EAGAIN
	})
	switch {
	case err != nil: // closed or too late: what failed before was only EAGAIN
	case failed != nil:
		err = failed
	case n == 0:
		c.received.Store(true)
		return 0, io.EOF
	}
	return n, c.opError("read", err)
}

func read(fd int, b []byte) (n int, err error) {
	for {
		if n, err = unix.Read(fd, b); err != unix.EINTR {
			return n, err
		}
	}
}

// Write writes all of p.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.f.Write(p)
	return n, c.opError("write", err)
}

// CloseWrite finishes this direction: the pod reads EOF after all that was written. Reading goes on.
// Finishing again does nothing.
func (c *Conn) CloseWrite() error {
	if c.sent.Load() {
		return nil
	}
	err := c.control(func(fd int) error {
		return os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_WR))
	})
	c.sent.Store(err == nil)
	return c.opError("close", err)
}

// Reset aborts both directions: pending calls return, and the pod sees ECONNRESET, not EOF. TCP has
// no room for the cause. After Close or Reset it does nothing.
func (c *Conn) Reset(error) error {
	if c.closed.Swap(true) {
		return nil
	}
	err := c.control(func(fd int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	})
	return c.opError("close", errors.Join(err, c.f.Close()))
}

// Close releases the socket. If both directions ended (CloseWrite, and io.EOF was read), data on its
// way is still delivered; if not, Close is a Reset, so that the pod cannot take a stream that broke
// for one that ended. Closing again does nothing.
func (c *Conn) Close() error {
	if !c.sent.Load() || !c.received.Load() {
		return c.Reset(net.ErrClosed)
	}
	if c.closed.Swap(true) {
		return nil
	}
	return c.opError("close", c.f.Close())
}

// LocalAddr is the *net.TCPAddr of this end, inside the namespace.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the *net.TCPAddr that was dialled, inside the namespace.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines; see net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.opError("set", c.f.SetDeadline(t)) }

// SetReadDeadline bounds Read and ReadLazy, pending ones too; see net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.opError("set", c.f.SetReadDeadline(t)) }

// SetWriteDeadline bounds Write, pending ones too; see net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.opError("set", c.f.SetWriteDeadline(t)) }

// control runs fn with the descriptor, which stays open meanwhile.
func (c *Conn) control(fn func(fd int) error) (err error) {
	if e := c.raw.Control(func(fd uintptr) { err = fn(int(fd)) }); e != nil {
		return e
	}
	return err
}

// opError gives an error of package os the shape that users of a net.Conn expect.
func (c *Conn) opError(op string, err error) error {
	if err == nil {
		return nil
	}
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	var errno syscall.Errno
	if c.closed.Load() && !errors.As(err, &errno) {
		err = net.ErrClosed // package os has words of its own for this
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}
