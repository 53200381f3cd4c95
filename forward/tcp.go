package forward

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// Socket is what TCP needs of a connected TCP socket: a [net.TCPConn] has it, and so has a socket that was made
// elsewhere, as in another network namespace. Its methods mean and return what those of net.TCPConn do.
type Socket interface {
	io.ReadWriteCloser
	CloseWrite() error
	SetLinger(sec int) error
	SyscallConn() (syscall.RawConn, error)
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
}

var _ Socket = (*net.TCPConn)(nil)

// TCP makes a Conn of s and takes it over: from now on s is read, written and closed through the Conn
// only. Deadlines still set on s keep working and end a call, not the connection.
//
// Reset is a real TCP reset: linger 0, then close. A peer's reset is ErrReset at every later call. On Unix
// the Conn is a LazyReader, a TryWriter and an AbortWaiter.
//
// A process that dies with s open resets it: what the system closes for the dead must not look like an end.
func TCP(s Socket) Conn {
	_ = s.SetLinger(0) // fails only on a socket that is gone, and its other methods say so
	return newTCP(s)
}

// tcpConn is the part that is the same on every system.
type tcpConn struct {
	conn Socket
	end  ending
}

func (c *tcpConn) Read(p []byte) (int, error) {
	n, err := c.conn.Read(p)
	if err != nil {
		err = c.readErr(err)
	}
	return n, err
}

func (c *tcpConn) Write(p []byte) (int, error) {
	if c.end.finished.Load() {
		return 0, c.end.standing(errFinished)
	}
	n, err := c.conn.Write(p)
	if err != nil {
		err = c.broke(err)
	}
	return n, err
}

func (c *tcpConn) CloseWrite() error {
	if c.end.finished.Swap(true) {
		return c.end.standing(nil)
	}
	if err := c.conn.CloseWrite(); err != nil {
		return c.broke(err)
	}
	return nil
}

func (c *tcpConn) Reset(cause error) error {
	if !c.end.takeDown(ResetBy(cause)) {
		return nil
	}
	// Linger is 0 since TCP. Otherwise the kernel would send what is queued and then a FIN: the peer
	// would take the abort for an end.
	return c.conn.Close()
}

func (c *tcpConn) Close() error {
	if !c.end.clean() {
		return c.Reset(net.ErrClosed)
	}
	if !c.end.takeDown(net.ErrClosed) {
		return nil
	}
	_ = c.conn.SetLinger(-1) // the kernel delivers what is queued; it fails only if nothing is left to deliver to
	return c.conn.Close()
}

// readErr gives the verdict on an error of a read: a true end, a reset, or the error itself.
func (c *tcpConn) readErr(err error) error {
	if err != io.EOF {
		return c.broke(err)
	}
	if c.end.sawEOF() {
		return io.EOF
	}
	if c.silentReset() {
		return c.end.broke(ResetBy(c.opError("read", io.ErrUnexpectedEOF)))
	}
	return c.end.readEOF()
}

// opError says, as the net package does, on which connection err came up: whoever joins two has to tell them apart.
func (c *tcpConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.conn.LocalAddr(), Addr: c.conn.RemoteAddr(), Err: err}
}

// broke translates the system's words for a reset and notes the error.
func (c *tcpConn) broke(err error) error {
	if isReset(err) && !errors.Is(err, net.ErrClosed) {
		err = ResetBy(err)
	}
	return c.end.broke(err)
}
