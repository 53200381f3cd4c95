package netns

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Dial connects to a TCP port of the namespace's localhost: to 127.0.0.1, and to ::1 if nothing is
// there. The caller closes the Conn. port 1 to 65535; h may be closed as soon as Dial returned.
//
// Errors are a *net.OpError with the address, and of two addresses the more telling one:
// syscall.ECONNREFUSED if nothing listens, context.DeadlineExceeded after Timeout, the context's
// error, ErrBusy if its turn never came, net.ErrClosed if h is closed, or what the system said.
func (d *Dialer) Dial(ctx context.Context, h *Handle, port uint16) (*Conn, error) {
	v4 := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1).To4(), Port: int(port)}
	deadline := time.Now().Add(d.timeout())
	if t, ok := ctx.Deadline(); ok && t.Before(deadline) {
		deadline = t
	}
	if err := d.acquire(ctx, deadline); err != nil {
		return nil, dialError(v4, err)
	}
	defer d.release()
	c, err := d.dial(ctx, h, v4, deadline)
	if err == nil || !absent(err) {
		return c, err
	}
	c, err6 := d.dial(ctx, h, &net.TCPAddr{IP: net.IPv6loopback, Port: int(port)}, deadline)
	if err6 == nil || weight(err6) > weight(err) {
		return c, err6
	}
	return nil, err
}

// absent says that err speaks of the address only, so that the other one is worth a try. An IPv4
// dial that ran out of ports (EADDRNOTAVAIL) is not that: a refusal by ::1 would hide it.
func absent(err error) bool {
	return weight(err) < 2 && !errors.Is(err, unix.EADDRNOTAVAIL)
}

// weight orders errors by how much they tell about the port. Without IPv6, ::1 is EADDRNOTAVAIL.
func weight(err error) int {
	for _, e := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EAFNOSUPPORT, unix.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return 0
		}
	}
	if errors.Is(err, unix.ECONNREFUSED) {
		return 1
	}
	return 2
}

func dialError(to net.Addr, err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: to, Err: err}
}

// dial makes one socket inside and connects it from outside.
func (d *Dialer) dial(ctx context.Context, h *Handle, to *net.TCPAddr, deadline time.Time) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, dialError(to, err)
	}
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: [16]byte(to.IP.To16()), Port: to.Port})
	if ip := to.IP.To4(); ip != nil {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte(ip), Port: to.Port}
	}
	back := d.home
	if back == nil {
		back = func(fd int) error { return netns.Set(netns.NsHandle(fd)) }
	}
	fd, err := h.socket(family, back)
	if err != nil {
		return nil, dialError(to, err)
	}
	pending, err := begin(fd, sa)
	c := &Conn{f: os.NewFile(uintptr(fd), "tcp"), remote: to} // now on the poller, which closes it
	if err == nil {
		c.raw, err = c.f.SyscallConn()
	}
	if err == nil && pending {
		err = c.await(ctx, deadline)
	}
	if err == nil {
		err = c.settle()
	}
	if err != nil {
		_ = c.f.Close() // never connected: there is nobody to tell
		return nil, dialError(to, err)
	}
	return c, nil
}

// begin starts to connect. pending means that the poller will tell.
func begin(fd int, sa unix.Sockaddr) (pending bool, err error) {
	err = unix.Connect(fd, sa)
	if err == unix.EINPROGRESS || err == unix.EINTR {
		// On a loopback it is usually done by now: asking again is cheaper than waiting.
		err = unix.Connect(fd, sa)
	}
	switch err {
	case nil, unix.EISCONN:
		return false, nil
	case unix.EINPROGRESS, unix.EALREADY, unix.EINTR:
		return true, nil
	}
	return false, os.NewSyscallError("connect", err)
}

// await waits until the connection stands or failed, the deadline passed or ctx ended.
func (c *Conn) await(ctx context.Context, deadline time.Time) error {
	if err := c.f.SetDeadline(deadline); err != nil {
		return err
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.f.SetDeadline(time.Unix(1, 0)) // it worked a moment ago
		close(woken)
	})
	var failed error
	err := c.raw.Write(func(fd uintptr) bool {
		var v int
		if v, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); failed != nil {
			return true
		}
		if v != 0 {
			failed = os.NewSyscallError("connect", syscall.Errno(v))
			return true
		}
		// The poller may wake without a reason; only a socket with a peer is connected.
		_, e := unix.Getpeername(int(fd))
		return e == nil
	})
	if !stop() {
		<-woken
		return ctx.Err()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.DeadlineExceeded
	}
	return errors.Join(err, failed)
}

// settle readies a connected socket for its user.
func (c *Conn) settle() error {
	// This fails if the poller did not take the socket (epoll has a limit per user): its reads
	// would then return EAGAIN instead of waiting.
	if err := c.f.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return c.control(func(fd int) error {
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return os.NewSyscallError("getsockname", err)
		}
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			c.local = &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
		case *unix.SockaddrInet6:
			c.local = &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
		}
		if c.local.Port == c.remote.Port {
			// TCP may connect a socket with itself when nothing listens on a port that the
			// kernel also hands out to dials. It would echo to the user what he sends.
			return os.NewSyscallError("connect", unix.ECONNREFUSED)
		}
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	})
}
