package netns_test

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	vishvananda "github.com/vishvananda/netns"

	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/netns/netnstest"
)

// everyThread runs a goroutine on each of n threads at once and reports the ones that are not in
// the namespace of the process.
func everyThread(t *testing.T, n int) {
	t.Helper()
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var ready, all sync.WaitGroup
	ready.Add(n)
	for range n {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready.Done()
			ready.Wait() // now each has a thread of its own
			if where, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || where != home {
				t.Errorf("a goroutine ran in %s, %v; home is %s", where, err, home)
			}
		})
	}
	all.Wait()
}

// TestNoWayHome lets the way home fail: the dial fails, and no goroutine ever runs on that thread
// again.
func TestNoWayHome(t *testing.T) {
	ns := netnstest.New(t)
	l := ns.Listen("tcp4", "127.0.0.1:0")
	serve(t, l, say("pod"))
	reached := decoy(t, port(l))
	h := open(t, ns)
	var d netns.Dialer
	var broken atomic.Bool
	var lost sync.Map
	d.SetHome(func(fd int) error {
		if broken.Load() {
			lost.Store(unix.Gettid(), true)
			return unix.EPERM
		}
		return vishvananda.Set(vishvananda.NsHandle(fd))
	})
	dial(t, h, port(l))
	fds := count(t, "fd")
	broken.Store(true)
	const n = 20
	for range n {
		if c, err := d.Dial(t.Context(), h, port(l)); c != nil || !errors.Is(err, syscall.EPERM) {
			t.Fatalf("dial: %v, %v; want %v", c, err, syscall.EPERM)
		}
		everyThread(t, 8)
	}
	eventually(t, "descriptors are back", func() bool { return count(t, "fd") <= fds })
	tids := 0
	lost.Range(func(tid, _ any) bool {
		tids++
		if tid == unix.Getpid() {
			t.Error("the main thread was lost")
		}
		return true
	})
	if tids == 0 {
		t.Error("no thread visited")
	}
	eventually(t, "lost threads are destroyed", func() bool { return strays(t) == 0 })
	broken.Store(false)
	c, err := d.Dial(t.Context(), h, port(l))
	if err != nil {
		t.Fatal(err)
	}
	defer abort(c)
	hears(t, c, "pod")
	if n := reached.Load(); n != 0 {
		t.Errorf("%d dials reached the decoy", n)
	}
}

// TestVisitors watches who visits: never the main thread, and everybody is at home afterwards.
func TestVisitors(t *testing.T) {
	ns := netnstest.New(t)
	l := ns.Listen("tcp4", "127.0.0.1:0")
	serve(t, l, say("pod"))
	h := open(t, ns)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var d netns.Dialer
	var visits atomic.Int64
	d.SetHome(func(fd int) error {
		visits.Add(1)
		if unix.Gettid() == unix.Getpid() {
			t.Error("the main thread visits")
		}
		if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now != own {
			t.Errorf("the process is said to live in %s, %v; want %s", now, err, own)
		}
		return vishvananda.Set(vishvananda.NsHandle(fd))
	})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				c, err := d.Dial(t.Context(), h, port(l))
				if err != nil {
					t.Error(err)
					return
				}
				abort(c)
				runtime.Gosched()
			}
		})
	}
	all.Wait()
	if n := visits.Load(); n != 800 {
		t.Errorf("%d visits, want one a dial", n)
	}
	eventually(t, "all threads are at home", func() bool { return strays(t) == 0 })
}
