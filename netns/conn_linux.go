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

// Conn is a TCP connection to a port inside a namespace. It behaves as a net.TCPConn does, and has
// those of its methods that the rooms above need. Errors are a *net.OpError, except a plain io.EOF. A
// write to a peer that is gone is an error (syscall.EPIPE or ECONNRESET), never a signal. Calls on a
// closed Conn give net.ErrClosed.
//
// The socket stays an *os.File, which is on the same poller as a net.TCPConn, because the net
// package would duplicate the descriptor and ask for its addresses again.
type Conn struct {
	f             *os.File
	raw           syscall.RawConn
	local, remote *net.TCPAddr
	closed        atomic.Bool
}

var _ net.Conn = (*Conn)(nil)

// Read reads what is there, waiting for at least a byte. io.EOF means that the pod finished.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.f.Read(p)
	if err == io.EOF {
		return n, io.EOF
	}
	return n, c.opError("read", err)
}

// Write writes all of p.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.f.Write(p)
	return n, c.opError("write", err)
}

// CloseWrite finishes this direction: the pod reads EOF after all that was written. Reading goes on.
func (c *Conn) CloseWrite() error {
	return c.opError("close", c.control(func(fd int) error {
		return os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_WR))
	}))
}

// SetLinger says what Close does with data that is not delivered yet: with sec < 0 (the default) the
// system goes on to deliver it, with 0 it is dropped and the pod sees ECONNRESET, with more the
// system drops it after that many seconds.
func (c *Conn) SetLinger(sec int) error {
	l := &unix.Linger{}
	if sec >= 0 {
		l.Onoff, l.Linger = 1, int32(sec)
	}
	return c.opError("set", c.control(func(fd int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, l))
	}))
}

// Close releases the socket; see SetLinger for data on its way. Pending calls return. Closing again
// does nothing.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return c.opError("close", c.f.Close())
}

// SyscallConn gives access to the socket; see syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return rawConn{c}, nil }

// rawConn is the socket with the errors of a net.Conn.
type rawConn struct{ c *Conn }

func (r rawConn) Control(f func(fd uintptr)) error {
	return r.c.opError("raw-control", r.c.raw.Control(f))
}

func (r rawConn) Read(f func(fd uintptr) (done bool)) error {
	return r.c.opError("raw-read", r.c.raw.Read(f))
}

func (r rawConn) Write(f func(fd uintptr) (done bool)) error {
	return r.c.opError("raw-write", r.c.raw.Write(f))
}

// LocalAddr is the *net.TCPAddr of this end, inside the namespace.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the *net.TCPAddr that was dialled, inside the namespace.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines; see net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.opError("set", c.f.SetDeadline(t)) }

// SetReadDeadline bounds Read, pending ones too; see net.Conn.
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
	if path, ok := errors.AsType[*os.PathError](err); ok {
		err = path.Err
	}
	var errno syscall.Errno
	if c.closed.Load() && !errors.As(err, &errno) {
		err = net.ErrClosed // package os has words of its own for this
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}
