package netns

import "syscall"

// SetHome replaces the way home of visiting threads.
func (d *Dialer) SetHome(f func(fd int) error) { d.home = f }

// InFlight counts the dials that have their turn.
func (d *Dialer) InFlight() int { return len(d.turns()) }

// Raw is the socket.
func (c *Conn) Raw() syscall.RawConn { return c.raw }

// PlainClose closes as a net.TCPConn does, whatever was read and written.
func (c *Conn) PlainClose() error {
	c.closed.Store(true)
	return c.opError("close", c.f.Close())
}
