package traffic

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

func testRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// spoiler is a proxy that does wrong in one way.
type spoiler struct {
	flip, drop, finish, reset, twice, stranger, stall bool
}

// start listens until the test ends and returns where.
func (s *spoiler) start(t *testing.T, target string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	keep := func(c net.Conn) net.Conn {
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, c)
		return c
	}
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", target)
			if err != nil {
				c.Close()
				continue
			}
			keep(c)
			keep(up)
			all.Go(func() { s.pass(c, up, target) })
			all.Go(func() { s.copy(c, up) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return ln.Addr().String()
}

// pass goes from the client to the pod: the number of the connection, then all
// else.
func (s *spoiler) pass(from, to net.Conn, target string) {
	var id [8]byte
	if _, err := io.ReadFull(from, id[:]); err != nil {
		return
	}
	if s.stranger {
		id[0] ^= 0x80
	}
	to.Write(id[:])
	if s.twice {
		if second, err := net.Dial("tcp", target); err == nil {
			second.Write(id[:])
			io.Copy(io.Discard, second)
			second.Close()
		}
	}
	s.copy(to, from)
}

// copy does the wrong after a few bytes.
func (s *spoiler) copy(to, from net.Conn) {
	if s.stall {
		return
	}
	buf := make([]byte, 100)
	for {
		n, err := from.Read(buf)
		part := buf[:n]
		switch {
		case n == 0:
		case s.flip:
			part[n-1] ^= 4
		case s.drop:
			part = part[1:]
		case s.finish:
			to.(*net.TCPConn).CloseWrite()
			return
		case s.reset:
			breakOff(to, from)
			return
		}
		to.Write(part)
		if errors.Is(err, io.EOF) {
			to.(*net.TCPConn).CloseWrite()
			return
		}
		if err != nil {
			breakOff(to, from)
			return
		}
	}
}

func breakOff(conns ...net.Conn) {
	for _, c := range conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}
