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
	Reset(cause error) error
	ReadLazy(borrow func() []byte, release func()) (int, error)
} = (*netns.Conn)(nil)

// plain closes as net.Conn demands: what was written is delivered.
type plain struct{ *netns.Conn }

func (p plain) Close() error { return p.PlainClose() }

// lazy reads with ReadLazy.
type lazy struct{ plain }

func (l lazy) Read(p []byte) (int, error) {
	return l.ReadLazy(func() []byte { return p }, func() {})
}

func TestNetConn(t *testing.T) {
	ns := netnstest.New(t)
	l := ns.Listen("tcp4", "127.0.0.1:0")
	h := open(t, ns)
	var d netns.Dialer
	makePipe := func(wrap func(*netns.Conn) net.Conn, swap bool) nettest.MakePipe {
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
				return pod, wrap(c), stop, nil
			}
			return wrap(c), pod, stop, nil
		}
	}
	asPlain := func(c *netns.Conn) net.Conn { return plain{c} }
	asLazy := func(c *netns.Conn) net.Conn { return lazy{plain{c}} }
	t.Run("near", func(t *testing.T) { nettest.TestConn(t, makePipe(asPlain, false)) })
	t.Run("far", func(t *testing.T) { nettest.TestConn(t, makePipe(asPlain, true)) })
	t.Run("lazy near", func(t *testing.T) { nettest.TestConn(t, makePipe(asLazy, false)) })
	t.Run("lazy far", func(t *testing.T) { nettest.TestConn(t, makePipe(asLazy, true)) })
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
			if err := c.CloseWrite(); err != nil {
				t.Errorf("finishing twice: %v", err)
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

// TestAbort ends a connection before its end: the pod must not read EOF.
func TestAbort(t *testing.T) {
	for _, tt := range []struct {
		name  string
		abort func(t *testing.T, c *netns.Conn, pod *net.TCPConn) error
	}{
		{"Reset", func(_ *testing.T, c *netns.Conn, _ *net.TCPConn) error { return c.Reset(io.ErrUnexpectedEOF) }},
		{"Close", func(_ *testing.T, c *netns.Conn, _ *net.TCPConn) error { return c.Close() }},
		{"Close after the pod finished", func(t *testing.T, c *netns.Conn, pod *net.TCPConn) error {
			pod.CloseWrite()
			hears(t, c, "")
			return c.Close()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, pod := pair(t)
			if err := tt.abort(t, c, pod); err != nil {
				t.Fatal(err)
			}
			if n, err := pod.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("pod reads %d, %v; want %v", n, err, syscall.ECONNRESET)
			}
			for range 2 {
				if err := errors.Join(c.Reset(nil), c.Close()); err != nil {
					t.Errorf("ending again: %v", err)
				}
			}
		})
	}
}

// TestResetPending aborts under a reader and a writer that wait.
func TestResetPending(t *testing.T) {
	c, pod := pair(t)
	var all sync.WaitGroup
	var written atomic.Int64
	all.Go(func() {
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %d, %v; want %v", n, err, net.ErrClosed)
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
	if err := c.Reset(io.ErrUnexpectedEOF); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if _, err := io.Copy(io.Discard, pod); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("pod: %v, want %v", err, syscall.ECONNRESET)
	}
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
	c.Close()
	buf := make([]byte, 1)
	borrow, release := func() []byte { return buf }, func() {}
	for name, f := range map[string]func() error{
		"Read":        func() error { _, err := c.Read(buf); return err },
		"ReadLazy":    func() error { _, err := c.ReadLazy(borrow, release); return err },
		"Write":       func() error { _, err := c.Write(buf); return err },
		"CloseWrite":  c.CloseWrite,
		"SetDeadline": func() error { return c.SetDeadline(time.Time{}) },
	} {
		var op *net.OpError
		if err := f(); !errors.Is(err, net.ErrClosed) || !errors.As(err, &op) {
			t.Errorf("%s: %v, want %v", name, err, net.ErrClosed)
		}
	}
}

// lender counts the buffers that are out.
type lender struct {
	buf            []byte
	borrowed, back atomic.Int64
}

func (l *lender) borrow() []byte { l.borrowed.Add(1); return l.buf }
func (l *lender) release()       { l.back.Add(1) }
func (l *lender) out() int64     { return l.borrowed.Load() - l.back.Load() }

func TestReadLazy(t *testing.T) {
	c, pod := pair(t)
	l := &lender{buf: make([]byte, 16)}
	read := func() (int, error) { return c.ReadLazy(l.borrow, l.release) }

	// An idle reader holds nothing, and what it is given when data comes is its to keep.
	var all sync.WaitGroup
	all.Go(func() {
		if n, err := read(); err != nil || string(l.buf[:n]) != "hello" {
			t.Errorf("read %q, %v", l.buf[:n], err)
		}
	})
	eventually(t, "reader asked once and gave the buffer back", func() bool { return l.back.Load() == 1 })
	if n := l.out(); n != 0 {
		t.Errorf("%d buffers out while idle", n)
	}
	io.WriteString(pod, "hello")
	all.Wait()
	if n := l.out(); n != 1 {
		t.Errorf("%d buffers out after data, want 1", n)
	}
	l.release()

	// Everything without data gives the buffer back.
	empty := &lender{}
	io.WriteString(pod, "x")
	if n, err := c.ReadLazy(empty.borrow, empty.release); n != 0 || !errors.Is(err, io.ErrShortBuffer) || empty.out() != 0 {
		t.Errorf("empty buffer: %d, %v, %d out", n, err, empty.out())
	}
	if n, err := read(); n != 1 || err != nil {
		t.Errorf("read %d, %v after an empty buffer, want the byte", n, err)
	}
	l.release()
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, err := read(); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || l.out() != 0 {
		t.Errorf("deadline: %d, %v, %d out", n, err, l.out())
	}
	c.SetReadDeadline(time.Time{})
	pod.CloseWrite()
	if n, err := read(); n != 0 || err != io.EOF || l.out() != 0 {
		t.Errorf("end: %d, %v, %d out", n, err, l.out())
	}
	c.CloseWrite()
	c.Close() // orderly, as ReadLazy saw the end
	if n, err := pod.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("pod reads %d, %v; want %v", n, err, io.EOF)
	}
}

// TestReadLazyReset aborts under a lazy reader, and lets the pod abort under one.
func TestReadLazyReset(t *testing.T) {
	for _, tt := range []struct {
		name  string
		abort func(*netns.Conn, *net.TCPConn)
		want  error
	}{
		{"here", func(c *netns.Conn, _ *net.TCPConn) { c.Reset(nil) }, net.ErrClosed},
		{"pod", func(_ *netns.Conn, pod *net.TCPConn) { pod.SetLinger(0); pod.Close() }, syscall.ECONNRESET},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, pod := pair(t)
			l := &lender{buf: make([]byte, 16)}
			var all sync.WaitGroup
			all.Go(func() {
				if n, err := c.ReadLazy(l.borrow, l.release); n != 0 || !errors.Is(err, tt.want) || l.out() != 0 {
					t.Errorf("read: %d, %v, %d out; want %v", n, err, l.out(), tt.want)
				}
			})
			eventually(t, "reader waits", func() bool { return l.back.Load() == 1 })
			tt.abort(c, pod)
			all.Wait()
		})
	}
}
