package forward_test

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/culvert-k8s/culvert/forward"
)

// asNet puts a Conn back into the shape of net.Conn. Its Close is the socket's own, since the standard suite
// takes Close for a finish.
type asNet struct {
	*net.TCPConn
	conn forward.Conn
	lazy bool
	one  sync.Mutex // the standard suite reads from many goroutines; a Conn has one reader
}

func newAsNet(c *net.TCPConn, lazy bool) *asNet {
	return &asNet{TCPConn: c, conn: forward.TCP(c), lazy: lazy}
}

func (c *asNet) Write(p []byte) (int, error) { return c.conn.Write(p) }

func (c *asNet) Read(p []byte) (int, error) {
	if l, ok := c.conn.(forward.LazyReader); ok && c.lazy && len(p) > 0 {
		c.one.Lock()
		defer c.one.Unlock()
		return l.ReadLazy(func() []byte { return p }, func() {})
	}
	return c.conn.Read(p)
}

// Close is a finish, as the standard suite wants it.
func (c *asNet) Close() error {
	_ = c.SetLinger(-1)
	return c.TCPConn.Close()
}

func TestTCPAsNetConn(t *testing.T) {
	for name, lazy := range map[string]bool{"plain": false, "lazy": true} {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				a, b, err := tcpPair()
				if err != nil {
					return nil, nil, nil, err
				}
				c1, c2 := newAsNet(a, lazy), newAsNet(b, lazy)
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

// What the system closes because the process died, here closed behind the Conn's back, is a reset for the peer;
// a Conn closed after both ends delivers what is still queued.
func TestTCPDeathIsNoEnd(t *testing.T) {
	for name, finished := range map[string]bool{"mid-stream": false, "finished": true} {
		t.Run(name, func(t *testing.T) {
			a, b, err := tcpPair()
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			conn := forward.TCP(a)
			queued := make([]byte, 64<<10)
			if _, err := conn.Write(queued); err != nil {
				t.Fatal(err)
			}
			if finished {
				err = errors.Join(b.CloseWrite(), conn.CloseWrite())
				if n, end := conn.Read(make([]byte, 1)); n != 0 || end != io.EOF {
					t.Fatalf("read %d, %v", n, end)
				}
				err = errors.Join(err, conn.Close())
			} else {
				err = a.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, b)
			if finished && (err != nil || n != int64(len(queued))) {
				t.Errorf("the peer read %d bytes and %v, want %d and an end", n, err, len(queued))
			}
			if !finished && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the peer read %d bytes and %v, want a reset", n, err)
			}
		})
	}
}

// The kernel reports a reset to one caller only. With a reader and a writer blocked on the same socket the reader
// often finds what looks like an end.
func TestTCPResetIsNeverEOF(t *testing.T) {
	for range 300 {
		ta, tb, err := tcpPair()
		if err != nil {
			t.Fatal(err)
		}
		a, b := forward.TCP(ta), forward.TCP(tb)
		var wg sync.WaitGroup
		wg.Go(func() {
			p := make([]byte, 256<<10)
			for {
				if _, err := a.Write(p); err != nil {
					return
				}
			}
		})
		var readErr error
		wg.Go(func() { _, readErr = a.Read(make([]byte, 1)) })
		if _, err := b.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
		_ = b.Reset(nil)
		wg.Wait()
		if readErr == nil || errors.Is(readErr, io.EOF) || !errors.Is(readErr, forward.ErrReset) {
			t.Fatalf("read of a reset connection: %v", readErr)
		}
		if op := (*net.OpError)(nil); !errors.As(readErr, &op) || op.Source.String() != ta.LocalAddr().String() {
			t.Fatalf("%v does not say which connection it is about", readErr)
		}
		_ = a.Close()
	}
}

// The report of the reset is taken by a failed write before the reader looks at all.
func TestTCPResetReportTakenByWrite(t *testing.T) {
	for _, finish := range []bool{false, true} {
		ta, tb, err := tcpPair()
		if err != nil {
			t.Fatal(err)
		}
		a, b := forward.TCP(ta), forward.TCP(tb)
		_ = b.Reset(nil)
		for err == nil {
			_, err = a.Write([]byte("x"))
		}
		if !errors.Is(err, forward.ErrReset) {
			t.Errorf("write to a reset connection: %v", err)
		}
		if finish {
			_ = a.CloseWrite()
		}
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, forward.ErrReset) {
			t.Errorf("read after it: %v", err)
		}
		_ = a.Close()
	}
}

// A peer that sent its end and was closed for good before our bytes came: its end was real.
func TestTCPEndBeforeReset(t *testing.T) {
	ta, tb, err := tcpPair()
	if err != nil {
		t.Fatal(err)
	}
	a := forward.TCP(ta)
	defer a.Close()
	if _, err := tb.Write([]byte("goodbye")); err != nil {
		t.Fatal(err)
	}
	tb.Close()
	if _, err := a.Write([]byte("too late")); err != nil { // answered with a reset
		t.Fatal(err)
	}
	if got, err := io.ReadAll(a); string(got) != "goodbye" || err != nil {
		t.Errorf("read %q, %v; want goodbye and an end", got, err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, forward.ErrReset) {
		t.Errorf("write after it: %v", err)
	}
}

func TestTCPDeadlineBreaksNothing(t *testing.T) {
	ta, tb, err := tcpPair()
	if err != nil {
		t.Fatal(err)
	}
	a, b := forward.TCP(ta), forward.TCP(tb)
	defer a.Close()
	defer b.Close()
	_ = ta.SetReadDeadline(time.Unix(1, 0))
	for range 2 {
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read after the deadline: %v", err)
		}
	}
	_ = ta.SetReadDeadline(time.Time{})
	if _, err := b.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := a.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatalf("read with the deadline lifted: %d, %v", n, err)
	}
}

func TestTCPLazyReadAllocatesNothing(t *testing.T) {
	ta, tb, err := tcpPair()
	if err != nil {
		t.Fatal(err)
	}
	a, b := forward.TCP(ta), forward.TCP(tb)
	defer a.Close()
	defer b.Close()
	lazy, ok := a.(forward.LazyReader)
	if !ok {
		t.Skip("no lazy reading on " + runtime.GOOS)
	}
	buf := make([]byte, 64)
	borrow, release := func() []byte { return buf }, func() {}
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := b.Write(buf[:1]); err != nil {
			t.Fatal(err)
		}
		if _, err := lazy.ReadLazy(borrow, release); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for one lazy read", allocs)
	}
}

// An empty buffer would read as an end, and must not.
func TestTCPLazyReadEmptyBuffer(t *testing.T) {
	ta, tb, err := tcpPair()
	if err != nil {
		t.Fatal(err)
	}
	a, b := forward.TCP(ta), forward.TCP(tb)
	defer a.Close()
	defer b.Close()
	lazy, ok := a.(forward.LazyReader)
	if !ok {
		t.Skip("no lazy reading on " + runtime.GOOS)
	}
	out := 0
	n, err := lazy.ReadLazy(func() []byte { out++; return nil }, func() { out-- })
	if n != 0 || !errors.Is(err, io.ErrShortBuffer) || out != 0 {
		t.Errorf("lazy read into an empty buffer: %d, %v, %d buffers out", n, err, out)
	}
}

func TestTCPReadReady(t *testing.T) {
	for _, tc := range []struct {
		name string
		peer func(forward.Conn)
		want string
		err  error
	}{
		{"nothing", func(forward.Conn) {}, "", nil},
		{"data", func(b forward.Conn) { _, _ = b.Write([]byte("data")) }, "data", nil},
		{"end", func(b forward.Conn) { _ = b.CloseWrite() }, "", io.EOF},
		{"reset", func(b forward.Conn) { _ = b.Reset(nil) }, "", forward.ErrReset},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ta, tb, err := tcpPair()
			if err != nil {
				t.Fatal(err)
			}
			a, b := forward.TCP(ta), forward.TCP(tb)
			defer a.Close()
			defer b.Close()
			ready, ok := a.(forward.ReadyReader)
			if !ok {
				t.Skip("only reads that wait on " + runtime.GOOS)
			}
			tc.peer(b) // on a loopback it has arrived when the call returns
			p := make([]byte, 64)
			for range 2 {
				n, err := ready.ReadReady(p)
				if string(p[:n]) != tc.want || !errors.Is(err, tc.err) {
					t.Fatalf("%q, %v", p[:n], err)
				}
				if tc.err == nil {
					break
				}
			}
		})
	}
}
