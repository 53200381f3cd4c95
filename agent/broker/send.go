package broker

import (
	"net"
	"syscall"
	"time"

	"github.com/culvert-k8s/culvert/forward"
)

// send sends one message, with a socket if there is one. The socket stays the
// caller's: the peer gets a descriptor of its own.
func (s *Server) send(c *net.UnixConn, msg []byte, socket forward.Socket) error {
	if err := c.SetWriteDeadline(time.Now().Add(s.writeTimeout)); err != nil {
		return err
	}
	if socket == nil {
		_, err := c.Write(msg)
		return err
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) {
		_, _, err = c.WriteMsgUnix(msg, syscall.UnixRights(int(fd)), nil)
	}); e != nil {
		return e
	}
	return err
}

// receive reads one message and the descriptor that may have come with it, -1 if
// none has. The caller closes it. There is room for one alone: the kernel closes
// what does not fit.
func receive(c *net.UnixConn, buf []byte) (msg []byte, fd int, err error) {
	var oob [32]byte
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob[:syscall.CmsgSpace(4)])
	if err != nil {
		return nil, -1, err
	}
	fd = -1
	if oobn > 0 {
		parts, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return nil, -1, err
		}
		for _, p := range parts {
			fds, err := syscall.ParseUnixRights(&p)
			if err != nil {
				continue // of another kind
			}
			for _, one := range fds {
				if fd >= 0 {
					_ = syscall.Close(fd)
				}
				fd = one
			}
		}
	}
	return buf[:n], fd, nil
}
