package forward

import (
	"errors"
	"syscall"
)

// newTCP returns a Conn that reads the plain way: waiting without a buffer would need zero-length
// overlapped reads, and the client that runs here has few connections.
func newTCP(c Socket) Conn {
	return &tcpConn{conn: c}
}

// silentReset is false: Winsock repeats the error of a reset connection at every call.
func (c *tcpConn) silentReset() bool { return false }

// isReset reports whether err is one of the system's words for a connection that was torn down.
func isReset(err error) bool {
	const (
		wsaENETRESET = syscall.Errno(10052)
		wsaENOTCONN  = syscall.Errno(10057)
		wsaESHUTDOWN = syscall.Errno(10058)
	)
	return errors.Is(err, syscall.WSAECONNRESET) || errors.Is(err, syscall.WSAECONNABORTED) ||
		errors.Is(err, wsaENETRESET) || errors.Is(err, wsaENOTCONN) || errors.Is(err, wsaESHUTDOWN)
}
