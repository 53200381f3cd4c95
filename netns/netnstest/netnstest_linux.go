package netnstest

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// NS is a network namespace that lives until the test ends. Its loopback is up.
type NS struct {
	t    testing.TB
	path string
	fd   int // keeps the namespace reachable for Do and Listen after Delete

	mu      sync.Mutex
	deleted bool
}

// New makes a namespace at a path of its own under the test's temporary directory. It skips the
// test if it does not run as root.
func New(t testing.TB) *NS {
	t.Helper()
	return NewAt(t, filepath.Join(t.TempDir(), "pod"))
}

// NewAt makes a namespace at path, which must not exist yet while its directory must. It skips the
// test if it does not run as root. The path is removed when the test ends.
func NewAt(t testing.TB, path string) *NS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	ns := &NS{t: t, path: path, fd: -1}
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return os.NewSyscallError("mount", err)
		}
		return nil
	})
	if err == nil {
		ns.fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	t.Cleanup(func() {
		ns.Delete()
		if ns.fd >= 0 {
			unix.Close(ns.fd)
		}
	})
	if err != nil {
		t.Fatalf("make network namespace %s: %v", path, err)
	}
	return ns
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return os.NewSyscallError("ioctl SIOCSIFFLAGS", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}

// Path is where the namespace is mounted.
func (ns *NS) Path() string { return ns.path }

// Name is the last element of Path.
func (ns *NS) Name() string { return filepath.Base(ns.path) }

// Delete removes the path, as a container runtime does when a pod ends. The namespace itself lives
// on until the test ends. Deleting again does nothing.
func (ns *NS) Delete() {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.deleted {
		return
	}
	ns.deleted = true
	if err := unix.Unmount(ns.path, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
		ns.t.Errorf("unmount %s: %v", ns.path, err)
	}
	if err := os.Remove(ns.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		ns.t.Error(err)
	}
}

// Do runs f on a thread inside the namespace and returns when f did. Goroutines that f starts are
// outside; sockets that f makes stay inside. f may end the goroutine, as t.FailNow does, but then
// only that one ends.
func (ns *NS) Do(f func()) {
	ns.t.Helper()
	err := onOwnThread(func() error {
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		f()
		return nil
	})
	if err != nil {
		ns.t.Errorf("enter network namespace %s: %v", ns.path, err)
	}
}

// Listen listens inside the namespace until the test ends. addr must be a literal.
func (ns *NS) Listen(network, addr string) net.Listener {
	ns.t.Helper()
	var l net.Listener
	var err error
	ns.Do(func() { l, err = net.Listen(network, addr) })
	if err != nil || l == nil {
		ns.t.Fatalf("listen in network namespace %s: %v", ns.path, err)
	}
	ns.t.Cleanup(func() { l.Close() })
	return l
}

// onOwnThread runs f on a thread that is destroyed afterwards, so there is no way home that could
// fail. It is never the main thread, which cannot be destroyed.
func onOwnThread(f func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			err = onOwnThread(f) // on another thread, as this one is taken
			runtime.UnlockOSThread()
			return
		}
		err = f()
	}()
	<-done
	return err
}
