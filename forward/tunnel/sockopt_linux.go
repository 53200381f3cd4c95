package tunnel

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// userTimeout ends a connection whose peer's kernel acknowledges nothing.
	userTimeout = 20 * time.Second
	// notSentLowat keeps the queue in the kernel short, so that a small frame
	// waits behind 128 KiB and not behind megabytes.
	notSentLowat = 128 << 10
)

// tuneSocket sets what a tunnel wants of its socket. A connection that is no
// TCP socket is left as it is: the options make it better, not right.
func tuneSocket(c net.Conn) {
	control(c, func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
	})
}

// untuneSocket takes back what cuts a peer that only does not read: the kernel
// counts a closed window as silence too.
func untuneSocket(c net.Conn) {
	control(c, func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0)
	})
}

func roundTrip(c net.Conn) (rtt time.Duration) {
	control(c, func(fd int) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			rtt = time.Duration(info.Rtt) * time.Microsecond
		}
	})
	return rtt
}

// delivery returns how many bytes the peer's kernel has acknowledged since the
// connection was made, and how many were handed to this kernel and are not
// acknowledged yet.
func delivery(c net.Conn) (acked, left int64, known bool) {
	control(c, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		v, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		acked, left, known = int64(info.Bytes_acked), int64(v), err == nil
	})
	return acked, left, known
}

func control(c net.Conn, f func(fd int)) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	rc, err := t.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Control(func(fd uintptr) { f(int(fd)) })
}
