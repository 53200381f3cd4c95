//go:build unix

package forward

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// lazyTCP adds waiting without a buffer, through the runtime's poller.
type lazyTCP struct {
	tcpConn
	raw syscall.RawConn

	// One ReadLazy at a time: its arguments and results live here, so that the function given to the
	// poller is made once and a read allocates nothing.
	try     func(fd uintptr) bool
	borrow  func() []byte
	release func()
	n       int
	err     error

	// The same for one TryWrite at a time.
	give  func(fd uintptr) bool
	out   []byte
	wrote int
}

func newTCP(c Socket) Conn {
	raw, err := c.SyscallConn()
	if err != nil { // c is not a connection; its own methods say so
		return &tcpConn{conn: c}
	}
	l := &lazyTCP{tcpConn: tcpConn{conn: c}, raw: raw}
	l.try, l.give = l.readOnce, l.writeOnce
	return l
}

// ReadLazy implements LazyReader.
func (l *lazyTCP) ReadLazy(borrow func() []byte, release func()) (int, error) {
	l.borrow, l.release, l.n, l.err = borrow, release, 0, nil
	err := l.raw.Read(l.try)
	if err == nil {
		err = l.err
	}
	l.borrow, l.release = nil, nil
	if err != nil {
		return 0, l.readErr(err)
	}
	return l.n, nil
}

// readOnce tries one read(2). It returns false, with no buffer held, if the poller has to wait first.
func (l *lazyTCP) readOnce(fd uintptr) bool {
	buf := l.borrow()
	if len(buf) == 0 { // read(2) would return 0, which means the end
		l.release()
		l.err = io.ErrShortBuffer
		return true
	}
	n, err := syscall.Read(int(fd), buf)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), buf)
	}
	if n > 0 {
		l.n = n
		return true
	}
	l.release()
	switch err {
	case nil:
		l.err = io.EOF
	case syscall.EAGAIN:
		return false
	default:
		l.err = l.opError("read", os.NewSyscallError("read", err))
	}
	return true
}

// ReadReady implements ReadyReader.
func (l *lazyTCP) ReadReady(p []byte) (int, error) {
	n, err := 0, error(nil)
	werr := l.raw.Read(func(fd uintptr) bool {
		for {
			if n, err = syscall.Read(int(fd), p); !errors.Is(err, syscall.EINTR) {
				return true
			}
		}
	})
	switch {
	case werr != nil:
		return 0, l.readErr(werr)
	case n > 0, errors.Is(err, syscall.EAGAIN):
		return max(n, 0), nil
	case err == nil:
		return 0, l.readErr(io.EOF)
	}
	return 0, l.readErr(l.opError("read", os.NewSyscallError("read", err)))
}

// TryWrite implements TryWriter.
func (l *lazyTCP) TryWrite(p []byte) int {
	if len(p) == 0 || l.end.finished.Load() {
		return 0
	}
	l.out, l.wrote = p, 0
	_ = l.raw.Write(l.give) // Write says what is wrong
	l.out = nil
	return l.wrote
}

// writeOnce tries one write(2); the poller never has to wait.
func (l *lazyTCP) writeOnce(fd uintptr) bool {
	n, err := syscall.Write(int(fd), l.out)
	for err == syscall.EINTR {
		n, err = syscall.Write(int(fd), l.out)
	}
	switch {
	case n > 0:
		l.wrote = n
	case err != nil && err != syscall.EAGAIN:
		_ = l.broke(l.opError("write", os.NewSyscallError("write", err))) // the kernel may say it only once
	}
	return true
}

// WaitAbort implements AbortWaiter. After the peer's end the poller still reports a reset, and with TCP
// keepalive also a peer that has vanished.
func (l *lazyTCP) WaitAbort() error {
	var abort error
	err := l.raw.Read(func(fd uintptr) bool {
		if _, err := syscall.Getpeername(int(fd)); err == nil {
			return false // still connected: another event, or none yet
		}
		if l.end.finished.Load() { // both directions ended, and the kernel is done with them
			return true
		}
		abort = ResetBy(l.opError("wait", io.ErrUnexpectedEOF)) // if a failing write was first to get the reason
		if n, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR); err == nil && n != 0 {
			abort = l.opError("wait", os.NewSyscallError("getsockopt", syscall.Errno(n)))
		}
		return true
	})
	if abort != nil {
		return l.broke(abort)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return l.end.aborted()
}

// silentReset reports whether an end just read from the socket is in truth a reset.
//
// The kernel reports a reset once. If a blocked write was first to get it, read(2) returns 0 from then on, as
// if the peer had finished. What tells them apart: a socket whose peer only finished still has a peer, unless this
// side finished too; and then no write was left to take the report, or it has been noted by the write that took it.
func (c *tcpConn) silentReset() bool {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		if _, err := syscall.Getpeername(int(fd)); err == nil {
			return
		}
		// A report that is still there was not needed to produce the 0: the peer finished first,
		// and the reset came after that.
		pending, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
		gone = err != nil || pending == 0
	})
	// finished is looked at last: it is set before shutdown(2), so if it is still false the socket
	// lost its peer without our doing.
	return err == nil && gone && !c.end.finished.Load()
}

// isReset reports whether err is one of the system's words for a connection that was torn down.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ENOTCONN)
}
