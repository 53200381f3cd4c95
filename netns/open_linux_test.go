package netns_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/netns/netnstest"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	file, fifo, link := filepath.Join(dir, "file"), filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/self/ns/net", link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		want       error
	}{
		{"own", "/proc/self/ns/net", netns.ErrHost},
		{"own thread", "/proc/thread-self/ns/net", netns.ErrHost},
		{"own by link", link, netns.ErrHost},
		{"mount namespace", "/proc/self/ns/mnt", netns.ErrNotNamespace},
		{"uts namespace", "/proc/self/ns/uts", netns.ErrNotNamespace},
		{"regular file", file, netns.ErrNotNamespace},
		{"directory", dir, netns.ErrNotNamespace},
		{"fifo", fifo, netns.ErrNotNamespace},
		{"device", os.DevNull, netns.ErrNotNamespace},
		{"nothing", filepath.Join(dir, "nothing"), netns.ErrGone},
		{"no directory", filepath.Join(file, "nothing"), netns.ErrGone},
		{"no process", "/proc/4194305/ns/net", netns.ErrGone},
		{"empty", "", netns.ErrGone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := count(t, "fd")
			h, err := netns.Open(tt.path)
			if h != nil || !errors.Is(err, tt.want) {
				t.Fatalf("Open(%q) = %v, %v; want %v", tt.path, h, err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.path) {
				t.Errorf("error %q does not name %q", err, tt.path)
			}
			if n := count(t, "fd"); n != before {
				t.Errorf("%d descriptors, %d before", n, before)
			}
		})
	}
}

func TestOpenOwnBindMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	path := filepath.Join(t.TempDir(), "host")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/proc/self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(path, unix.MNT_DETACH)
	if _, err := netns.Open(path); !errors.Is(err, netns.ErrHost) {
		t.Errorf("Open: %v, want %v", err, netns.ErrHost)
	}
}

// TestOpenFromElsewhere opens from a goroutine locked to a thread that somebody moved.
func TestOpenFromElsewhere(t *testing.T) {
	ns := netnstest.New(t)
	l := ns.Listen("tcp4", "127.0.0.1:0")
	ns.Do(func() {
		if _, err := netns.Open("/proc/self/ns/net"); !errors.Is(err, netns.ErrHost) {
			t.Errorf("open own: %v, want %v", err, netns.ErrHost)
		}
		c := dial(t, open(t, ns), port(l))
		abort(c)
		mine, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil || !strings.HasSuffix(open(t, ns).ID().String(), mine) {
			t.Errorf("the caller's thread was moved to %s, %v", mine, err)
		}
	})
}

func TestID(t *testing.T) {
	a, b := netnstest.New(t), netnstest.New(t)
	ha, hb := open(t, a), open(t, b)
	var st unix.Stat_t
	if err := unix.Stat(a.Path(), &st); err != nil {
		t.Fatal(err)
	}
	if want := (netns.ID{Dev: uint64(st.Dev), Ino: st.Ino}); ha.ID() != want {
		t.Errorf("ID = %v, want %v", ha.ID(), want)
	}
	if again := open(t, a); again.ID() != ha.ID() {
		t.Errorf("opened twice: %v and %v", ha.ID(), again.ID())
	}
	if ha.ID() == hb.ID() {
		t.Errorf("two namespaces with one ID %v", ha.ID())
	}
	if s := ha.ID().String(); !strings.Contains(s, strconv.FormatUint(st.Ino, 10)) {
		t.Errorf("String() = %q does not show inode %d", s, st.Ino)
	}
}

func TestHandleClose(t *testing.T) {
	ns := netnstest.New(t)
	before := count(t, "fd")
	h := open(t, ns)
	id := h.ID()
	fds := namespaceFDs(t)
	if len(fds) < 2 {
		t.Errorf("descriptors %v, want those of the pod and of home", fds)
	}
	for _, fd := range fds {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d would be inherited: flags %#x, %v", fd, flags, err)
		}
	}
	for range 2 {
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, "fd"); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
	if h.ID() != id {
		t.Errorf("ID changed from %v to %v", id, h.ID())
	}
	var d netns.Dialer
	if _, err := d.Dial(t.Context(), h, 1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial after close: %v, want %v", err, net.ErrClosed)
	}
}

// namespaceFDs lists the open descriptors of namespaces.
func namespaceFDs(t *testing.T) (fds []int) {
	t.Helper()
	for fd := range 1024 {
		var fs unix.Statfs_t
		if unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.NSFS_MAGIC {
			fds = append(fds, fd)
		}
	}
	return fds
}

// TestCloseUnderDials closes while others dial: whoever comes too late gets an error, and nobody
// enters a descriptor that means something else by then.
func TestCloseUnderDials(t *testing.T) {
	ns := netnstest.New(t)
	l := ns.Listen("tcp4", "127.0.0.1:0")
	serve(t, l, say("pod"))
	reached := decoy(t, port(l))
	var d netns.Dialer
	for range 50 {
		h := open(t, ns)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					c, err := d.Dial(t.Context(), h, port(l))
					if err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Error(err)
						}
						return
					}
					c.Close()
				}
			})
		}
		h.Close()
		all.Wait()
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d dials reached the decoy", n)
	}
}

// TestDeleted takes the path away under an open handle: the namespace goes on for who holds it.
func TestDeleted(t *testing.T) {
	ns := netnstest.New(t)
	l := ns.Listen("tcp4", "127.0.0.1:0")
	reached := decoy(t, port(l))
	h := open(t, ns)
	ns.Delete()
	if _, err := netns.Open(ns.Path()); !errors.Is(err, netns.ErrGone) {
		t.Errorf("Open: %v, want %v", err, netns.ErrGone)
	}
	dial(t, h, port(l)).Close()
	l.Close()
	var d netns.Dialer
	if _, err := d.Dial(t.Context(), h, port(l)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, want %v", err, syscall.ECONNREFUSED)
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d dials reached the decoy", n)
	}
}

// TestOpenHost needs no root: it is the one way to the own loopback.
func TestOpenHost(t *testing.T) {
	h, err := netns.OpenHost()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if own, err := os.Readlink("/proc/self/ns/net"); err != nil || !strings.HasSuffix(h.ID().String(), own) {
		t.Errorf("ID = %v, want %v, %v", h.ID(), own, err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, say("host"))
	hears(t, dial(t, h, port(l)), "host")
	h.Close()
	var d netns.Dialer
	if _, err := d.Dial(t.Context(), h, port(l)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial after close: %v, want %v", err, net.ErrClosed)
	}
}
