package broker

import (
	"fmt"
	"net"
	"syscall"
)

// peerUID returns the user that made the connection, as the kernel noted it then.
func peerUID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var who *syscall.Ucred
	if e := raw.Control(func(fd uintptr) {
		who, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); e != nil {
		return 0, e
	}
	if err != nil {
		return 0, fmt.Errorf("ask who connected: %w", err)
	}
	return int(who.Uid), nil
}
