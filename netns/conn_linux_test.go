package netns_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/netns/netnstest"
)

// What the rooms above ask of a connection.
var _ interface {
	net.Conn
	CloseWrite() error
	SetLinger(sec int) error
	SyscallConn() (syscall.RawConn, error)
} = (*netns.Conn)(nil)

func TestNetConn(t *testing.T) {
	ns := netnstest.New(t)
	l := ns.Listen("tcp4", "127.0.0.1:0")
	h := open(t, ns)
	var d netns.Dialer
	makePipe := func(swap bool) nettest.MakePipe {
		return func() (net.Conn, net.Conn, func(), error) {
			c, err := d.Dial(t.Context(), h, port(l))
			if err != nil {
				return nil, nil, nil, err
			}
			pod, err := l.Accept()
			if err != nil {
				return nil, nil, nil, err
			}
			stop := func() {
				c.Close()
				pod.Close()
			}
			if swap {
				return pod, c, stop, nil
			}
			return c, pod, stop, nil
		}
	}
	t.Run("near", func(t *testing.T) { nettest.TestConn(t, makePipe(false)) })
	t.Run("far", func(t *testing.T) { nettest.TestConn(t, makePipe(true)) })
}

func TestHalfClose(t *testing.T) {
	for _, tt := range []struct {
		name        string
		first, next func(c *netns.Conn, pod *net.TCPConn) (from, to duplex)
	}{
		{"pod finishes last", nearFirst, farFirst},
		{"pod finishes first", farFirst, nearFirst},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, pod := pair(t)
			for i, way := range []func(*netns.Conn, *net.TCPConn) (duplex, duplex){tt.first, tt.next} {
				from, to := way(c, pod)
				text := []string{"first", "next"}[i]
				if _, err := io.WriteString(from, text); err != nil {
					t.Fatal(err)
				}
				if err := from.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				hears(t, to, text)
			}
			for range 2 {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
			if n, err := pod.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("pod reads %d, %v after an orderly end, want %v", n, err, io.EOF)
			}
		})
	}
}

type duplex interface {
	io.ReadWriter
	CloseWrite() error
}

func nearFirst(c *netns.Conn, pod *net.TCPConn) (duplex, duplex) { return c, pod }
func farFirst(c *netns.Conn, pod *net.TCPConn) (duplex, duplex)  { return pod, c }

// TestLinger closes with data on its way: it is delivered, unless linger 0 makes the close an abort.
func TestLinger(t *testing.T) {
	for _, tt := range []struct {
		name string
		sec  []int
		want error
	}{
		{"not set", nil, nil},
		{"no time", []int{0}, syscall.ECONNRESET},
		{"set and lifted", []int{0, -1}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, pod := pair(t)
			if _, err := io.WriteString(c, "last words"); err != nil {
				t.Fatal(err)
			}
			for _, sec := range tt.sec {
				if err := c.SetLinger(sec); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
			got, err := io.ReadAll(pod)
			if !errors.Is(err, tt.want) || tt.want == nil && string(got) != "last words" {
				t.Errorf("pod reads %q, %v; want %v", got, err, tt.want)
			}
		})
	}
}

// TestClosePending closes under a reader, a writer and one who waits on the raw socket.
func TestClosePending(t *testing.T) {
	c, _ := pair(t)
	raw := raw(t, c)
	var all sync.WaitGroup
	var written atomic.Int64
	all.Go(func() {
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %d, %v; want %v", n, err, net.ErrClosed)
		}
		if err := raw.Read(func(uintptr) bool { return false }); !errors.Is(err, net.ErrClosed) {
			t.Errorf("raw read: %v, want %v", err, net.ErrClosed)
		}
	})
	all.Go(func() {
		for {
			n, err := c.Write(make([]byte, 64<<10)) // until all buffers are full
			written.Add(int64(n))
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("write: %v, want %v", err, net.ErrClosed)
				}
				return
			}
		}
	})
	last := int64(-1)
	eventually(t, "writer waits", func() bool {
		time.Sleep(20 * time.Millisecond)
		now := written.Load()
		defer func() { last = now }()
		return now > 0 && now == last
	})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	all.Wait()
}

// TestPeerReset lets the pod abort: an error for the reader and for the writer, no signal, no EOF.
func TestPeerReset(t *testing.T) {
	c, pod := pair(t)
	pod.SetLinger(0)
	pod.Close()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %d, %v; want %v", n, err, syscall.ECONNRESET)
	}
	_, err := c.Write([]byte("x"))
	if !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v, want %v", err, syscall.EPIPE)
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "write" || op.Addr != c.RemoteAddr() || op.Source != c.LocalAddr() {
		t.Errorf("error %#v is not a full net.OpError", err)
	}
	if err := c.CloseWrite(); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("CloseWrite: %v, want %v", err, syscall.ENOTCONN)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestClosed(t *testing.T) {
	c, _ := pair(t)
	raw := raw(t, c)
	c.Close()
	buf := make([]byte, 1)
	for name, f := range map[string]func() error{
		"Read":        func() error { _, err := c.Read(buf); return err },
		"Write":       func() error { _, err := c.Write(buf); return err },
		"CloseWrite":  c.CloseWrite,
		"SetLinger":   func() error { return c.SetLinger(0) },
		"SetDeadline": func() error { return c.SetDeadline(time.Time{}) },
		"raw Read":    func() error { return raw.Read(func(uintptr) bool { return true }) },
		"raw Write":   func() error { return raw.Write(func(uintptr) bool { return true }) },
		"raw Control": func() error { return raw.Control(func(uintptr) {}) },
	} {
		var op *net.OpError
		if err := f(); !errors.Is(err, net.ErrClosed) || !errors.As(err, &op) {
			t.Errorf("%s: %v, want %v", name, err, net.ErrClosed)
		}
	}
}

// TestRawConn waits on the socket's poller, and lets a deadline end the wait.
func TestRawConn(t *testing.T) {
	c, pod := pair(t)
	raw := raw(t, c)
	tries := 0
	go io.WriteString(pod, "x")
	var got [1]byte
	if err := raw.Read(func(fd uintptr) bool {
		tries++
		n, _ := syscall.Read(int(fd), got[:])
		return n == 1
	}); err != nil || got[0] != 'x' {
		t.Errorf("raw read: %q, %v", got[0], err)
	}
	if tries > 2 {
		t.Errorf("asked %d times for one byte", tries)
	}
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if err := raw.Read(func(uintptr) bool { return false }); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v, want %v", err, os.ErrDeadlineExceeded)
	}
}
