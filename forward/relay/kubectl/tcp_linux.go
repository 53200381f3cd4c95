package kubectl

import (
	"encoding/binary"
	"net"
	"syscall"
)

// notSentLowat keeps the queue in the kernel short, so that a small frame waits
// behind 256 KiB of a download and not behind megabytes.
const notSentLowat = 256 << 10

const tcpNotSentLowat = 25 // TCP_NOTSENT_LOWAT, which package syscall does not have

// tuneSocket sets what a session wants of its socket. On a connection that is no
// TCP socket it does nothing: it makes things better, not right.
func tuneSocket(conn net.Conn) {
	control(conn, func(fd int) {
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, tcpNotSentLowat, notSentLowat)
	})
}

// tcpRetries returns how often the kernel has sent the same bytes, or asked for room,
// without an answer.
func tcpRetries(conn net.Conn) (retries int, known bool) {
	control(conn, func(fd int) {
		// The first four bytes of struct tcp_info: state, ca_state, retransmits, probes.
		info, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_INFO)
		if err == nil {
			b := [4]byte{}
			binary.NativeEndian.PutUint32(b[:], uint32(info))
			retries, known = int(b[2])+int(b[3]), true
		}
	})
	return retries, known
}

// control calls f with the socket under conn, if there is one.
func control(conn net.Conn, f func(fd int)) {
	for {
		switch c := conn.(type) {
		case interface{ NetConn() net.Conn }: // tls.Conn
			conn = c.NetConn()
			continue
		case syscall.Conn:
			if raw, err := c.SyscallConn(); err == nil {
				_ = raw.Control(func(fd uintptr) { f(int(fd)) })
			}
		}
		return
	}
}
