package netns_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/netns/netnstest"
)

// write sets a kernel parameter of the namespace.
func write(t *testing.T, ns *netnstest.NS, path, value string) {
	t.Helper()
	var err error
	ns.Do(func() { err = os.WriteFile(path, []byte(value), 0) })
	if err != nil {
		t.Fatal(err)
	}
}

// hears reads to the end and compares.
func hears(t *testing.T, c io.Reader, want string) {
	t.Helper()
	if got, err := io.ReadAll(c); err != nil || string(got) != want {
		t.Errorf("read %q, %v; want %q", got, err, want)
	}
}

func TestDialFamilies(t *testing.T) {
	ns := netnstest.New(t)
	l4 := ns.Listen("tcp4", "127.0.0.1:0")
	serve(t, l4, say("four"))
	both := ns.Listen("tcp6", net.JoinHostPort("::1", strconv.Itoa(int(port(l4)))))
	serve(t, both, say("six"))
	only := ns.Listen("tcp6", "[::1]:0")
	serve(t, only, say("six"))
	any4 := ns.Listen("tcp4", "0.0.0.0:0")
	serve(t, any4, say("four"))
	any6 := ns.Listen("tcp", "[::]:0")
	serve(t, any6, say("either"))
	h := open(t, ns)
	for _, tt := range []struct {
		name, ip, want string
		port           uint16
	}{
		{"IPv4 first", "127.0.0.1", "four", port(l4)},
		{"IPv6 only", "::1", "six", port(only)},
		{"IPv4 wildcard", "127.0.0.1", "four", port(any4)},
		{"dual-stack wildcard", "127.0.0.1", "either", port(any6)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, h, tt.port)
			hears(t, c, tt.want)
			remote, local := c.RemoteAddr().(*net.TCPAddr), c.LocalAddr().(*net.TCPAddr)
			if !remote.IP.Equal(net.ParseIP(tt.ip)) || remote.Port != int(tt.port) {
				t.Errorf("RemoteAddr = %v", remote)
			}
			if !local.IP.Equal(remote.IP) || local.Port == 0 {
				t.Errorf("LocalAddr = %v", local)
			}
			err := raw(t, c).Control(func(fd uintptr) {
				if v, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY); err != nil || v == 0 {
					t.Errorf("TCP_NODELAY = %d, %v", v, err)
				}
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDialRefused(t *testing.T) {
	ns := netnstest.New(t)
	h := open(t, ns)
	refused(t, h, syscall.ECONNREFUSED)
	write(t, ns, "/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")
	refused(t, h, syscall.ECONNREFUSED) // and not that ::1 has no address
}

// TestDialNoLoopback dials in a namespace whose loopback was never up.
func TestDialNoLoopback(t *testing.T) {
	netnstest.New(t).Do(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		h, err := netns.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
			return
		}
		defer h.Close()
		refused(t, h, syscall.ENETUNREACH)
	})
}

// refused dials a port where nothing is.
func refused(t *testing.T, h *netns.Handle, want error) {
	t.Helper()
	var d netns.Dialer
	c, err := d.Dial(t.Context(), h, 81)
	if c != nil || !errors.Is(err, want) {
		t.Errorf("dial: %v, %v; want %v", c, err, want)
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" || op.Addr.String() != "127.0.0.1:81" {
		t.Errorf("error %#v, want a net.OpError of 127.0.0.1:81", err)
	}
}

func TestDialBlackhole(t *testing.T) {
	ns := netnstest.New(t)
	l, unblock := blackhole(t, ns)
	h := open(t, ns)

	t.Run("timeout", func(t *testing.T) {
		d := netns.Dialer{Timeout: 20 * time.Millisecond}
		_, err := d.Dial(context.Background(), h, port(l))
		var ne net.Error
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("dial: %v, want %v", err, context.DeadlineExceeded)
		}
	})
	t.Run("context deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		d := netns.Dialer{Timeout: time.Hour}
		if _, err := d.Dial(ctx, h, port(l)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial: %v, want %v", err, context.DeadlineExceeded)
		}
	})
	t.Run("context ended before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var d netns.Dialer
		if _, err := d.Dial(ctx, h, port(l)); !errors.Is(err, context.Canceled) {
			t.Errorf("dial: %v, want %v", err, context.Canceled)
		}
	})
	t.Run("opens late", func(t *testing.T) {
		d := netns.Dialer{Timeout: time.Minute}
		var all sync.WaitGroup
		defer all.Wait()
		all.Go(func() {
			c, err := d.Dial(t.Context(), h, port(l))
			if err != nil {
				t.Errorf("dial: %v", err)
				return
			}
			defer abort(c)
			hears(t, c, "late")
		})
		eventually(t, "dial in flight", func() bool { return d.InFlight() == 1 })
		unblock()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "late")
		c.Close()
	})
}

// TestSlowDials lets hundreds of dials wait at once, takes the namespace away under them, and ends
// them: meanwhile none holds a thread, and after it nothing is left.
func TestSlowDials(t *testing.T) {
	const n = 400
	ns := netnstest.New(t)
	l, _ := blackhole(t, ns)
	h := open(t, ns)
	d := netns.Dialer{MaxInFlight: n, Timeout: time.Hour}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dial(t, open(t, ns), port(ns.Listen("tcp4", "127.0.0.1:0"))) // the runtime has what it needs
	fds, threads := count(t, "fd"), count(t, "task")
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if _, err := d.Dial(ctx, h, port(l)); !errors.Is(err, context.Canceled) || errors.Is(err, netns.ErrBusy) {
				t.Errorf("dial: %v, want %v", err, context.Canceled)
			}
		})
	}
	eventually(t, "all dials wait for an answer", func() bool { return count(t, "fd") >= fds+n })
	if now := count(t, "task"); now > threads+n/10 {
		t.Errorf("%d threads while %d dials wait, %d before", now, n, threads)
	}
	ns.Delete()
	h.Close()
	cancel()
	all.Wait()
	if now := count(t, "fd"); now > fds {
		t.Errorf("%d descriptors, %d before", now, fds)
	}
}

func TestMaxInFlight(t *testing.T) {
	ns := netnstest.New(t)
	hole, _ := blackhole(t, ns)
	l := ns.Listen("tcp4", "127.0.0.1:0")
	h := open(t, ns)
	d := netns.Dialer{MaxInFlight: 1, Timeout: time.Hour}
	var all sync.WaitGroup
	defer all.Wait()
	first, stop := context.WithCancel(t.Context())
	defer stop()
	all.Go(func() { d.Dial(first, h, port(hole)) })
	eventually(t, "one dial in flight", func() bool { return d.InFlight() == 1 })

	late, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := d.Dial(late, h, port(l)); !errors.Is(err, netns.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial: %v, want %v", err, netns.ErrBusy)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Dial(gone, h, port(l)); !errors.Is(err, netns.ErrBusy) || !errors.Is(err, context.Canceled) {
		t.Errorf("dial: %v, want %v", err, netns.ErrBusy)
	}
	all.Go(func() {
		c, err := d.Dial(t.Context(), h, port(l))
		if err != nil {
			t.Errorf("dial in its turn: %v", err)
			return
		}
		abort(c)
	})
	stop() // the next one's turn
}

// TestTenThousand makes connections one after the other and looks for anything they left.
func TestTenThousand(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 500
	}
	ns := netnstest.New(t)
	l := ns.Listen("tcp4", "127.0.0.1:0")
	serve(t, l, echo)
	h := open(t, ns)
	var d netns.Dialer
	p := make([]byte, 1)
	one := func(i int) {
		c, err := d.Dial(t.Context(), h, port(l))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, p); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			abort(c)
			return
		}
		c.CloseWrite()
		if _, err := c.Read(p); err != io.EOF {
			t.Fatalf("read: %v, want %v", err, io.EOF)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		one(i)
	}
	fds, threads, goroutines := count(t, "fd"), count(t, "task"), runtime.NumGoroutine()
	for i := range n {
		one(i)
	}
	eventually(t, "descriptors and goroutines are back", func() bool {
		return count(t, "fd") <= fds && runtime.NumGoroutine() <= goroutines
	})
	if now := count(t, "task"); now > threads+8 {
		t.Errorf("%d threads, %d before", now, threads)
	}
	eventually(t, "all threads are at home", func() bool { return strays(t) == 0 })
}
