package netns

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// errStranger is a socket that no Dial has made.
var errStranger = errors.New("socket is not connected with a loopback address")

// Adopt makes a Conn of a socket that a Dial made in another process, which passed
// it here. It takes fd over, whatever it returns. What is not connected by TCP with a
// loopback address is an error; all errors are a *net.OpError.
func Adopt(fd int) (*Conn, error) {
	// Dial made it non-blocking, which is passed with it: the poller takes it.
	c := &Conn{f: os.NewFile(uintptr(fd), "tcp")}
	err := c.adopt(fd)
	if err != nil {
		_ = c.f.Close() // of no use to anybody
		return nil, &net.OpError{Op: "adopt", Net: "tcp", Err: err}
	}
	return c, nil
}

func (c *Conn) adopt(fd int) error {
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return os.NewSyscallError("getpeername", err)
	}
	switch sa := peer.(type) {
	case *unix.SockaddrInet4:
		c.remote = &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
	case *unix.SockaddrInet6:
		c.remote = &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
	}
	if c.remote == nil || !c.remote.IP.IsLoopback() {
		return errStranger
	}
	if c.raw, err = c.f.SyscallConn(); err != nil {
		return err
	}
	return c.settle()
}
