package netns_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/netns/netnstest"
)

func port(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }

// serve answers every connection of l with f until the test ends, and waits for all of them then.
func serve(t testing.TB, l net.Listener, f func(net.Conn)) {
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				f(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
}

func echo(c net.Conn) { io.Copy(c, c) }

func say(s string) func(net.Conn) { return func(c net.Conn) { io.WriteString(c, s) } }

// open opens the namespace until the test ends.
func open(t testing.TB, ns *netnstest.NS) *netns.Handle {
	t.Helper()
	h, err := netns.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// dial dials with a zero Dialer, and aborts what is left of the connection when the test ends.
func dial(t testing.TB, h *netns.Handle, port uint16) *netns.Conn {
	t.Helper()
	var d netns.Dialer
	c, err := d.Dial(t.Context(), h, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { abort(c) })
	return c
}

// raw is the socket.
func raw(t testing.TB, c *netns.Conn) syscall.RawConn {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// abort ends a connection so that nothing of it is left in the kernel.
func abort(c *netns.Conn) {
	c.SetLinger(0)
	c.Close()
}

// pair is a connection into a fresh namespace: the Conn, and the pod's end of it.
func pair(t testing.TB) (*netns.Conn, *net.TCPConn) {
	t.Helper()
	ns := netnstest.New(t)
	l := ns.Listen("tcp4", "127.0.0.1:0")
	c := dial(t, open(t, ns), port(l))
	pod, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pod.Close() })
	return c, pod.(*net.TCPConn)
}

// decoy listens on port at home, on both loopbacks, and counts who comes.
func decoy(t testing.TB, port uint16) *atomic.Int64 {
	t.Helper()
	var reached atomic.Int64
	for _, ip := range []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback} {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Port: int(port)})
		if err != nil {
			t.Fatal(err)
		}
		serve(t, l, func(c net.Conn) {
			reached.Add(1)
			io.WriteString(c, "decoy")
		})
	}
	return &reached
}

// blackhole listens inside ns on a port that answers no packet until open is called.
func blackhole(t testing.TB, ns *netnstest.NS) (l net.Listener, open func()) {
	t.Helper()
	// One instruction: keep 0 bytes of every packet.
	drop := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}}
	control := func(raw syscall.RawConn, f func(fd int) error) (err error) {
		return errors.Join(raw.Control(func(fd uintptr) { err = f(int(fd)) }), err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		raw.Control(func(fd uintptr) {
			err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &drop)
		})
		return err
	}}
	var err error
	ns.Do(func() { l, err = lc.Listen(context.Background(), "tcp4", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, func() {
		t.Helper()
		raw, err := l.(*net.TCPListener).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := control(raw, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// eventually waits for what the kernel or the runtime does in its own time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("still not so: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// count says how many entries a directory of /proc/self has.
func count(t testing.TB, dir string) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/" + dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

// strays counts the threads that are not in the namespace of the process.
func strays(t testing.TB) (n int) {
	t.Helper()
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		// A thread that ended meanwhile is no stray.
		if where, err := os.Readlink(l); err == nil && where != home {
			n++
		}
	}
	return n
}
