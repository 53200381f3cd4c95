package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Handle is an open network namespace. It keeps the namespace alive, pod or no pod, and holds two
// file descriptors, so close it soon, and ask IsAt before a later use. It is safe for use by many goroutines; sockets made through it
// outlive it.
type Handle struct {
	id   ID
	host bool // the process's own namespace: nothing to enter

	mu   sync.RWMutex // held for reading while a thread uses the two below
	ns   netns.NsHandle
	home netns.NsHandle // where a visiting thread came from and goes back to
}

// Open opens the network namespace at path (a bind mount such as /run/netns/NAME, or a link such as
// /proc/PID/ns/net). The caller closes the Handle. Errors: ErrGone if there is nothing at path,
// ErrNotNamespace if it is anything else than a network namespace, ErrHost if it is the namespace
// of this process, or what the system said.
func Open(path string) (*Handle, error) {
	h, err := ownHandle()
	if err == nil {
		if err = h.move(path); err == nil {
			return h, nil
		}
		err = errors.Join(err, h.Close())
	}
	return nil, fmt.Errorf("open network namespace %s: %w", path, err)
}

// OpenHost opens the network namespace that this process lives in, for callers who were told to
// allow it. Dialling through it reaches the process's own loopback and needs no capability.
// The caller closes the Handle.
func OpenHost() (*Handle, error) {
	h, err := ownHandle()
	if err != nil {
		return nil, fmt.Errorf("open own network namespace: %w", err)
	}
	return h, nil
}

// ownHandle opens the namespace that unlocked threads live in. It asks from a goroutine of its own,
// for the caller's may be locked to a thread that somebody moved elsewhere.
func ownHandle() (*Handle, error) {
	h := &Handle{ns: netns.None(), home: netns.None(), host: true}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var err error
		if h.home, err = netns.Get(); err == nil {
			h.id, err = identify(int(h.home))
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// move makes a handle of the own namespace one of the namespace at path.
func (h *Handle) move(path string) error {
	// O_NONBLOCK, so that a FIFO at path is refused below and not waited for here.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ESRCH: //nolint:errorlint // a bare errno
		return fmt.Errorf("%w: %w", ErrGone, err)
	default:
		return err
	}
	h.ns = netns.NsHandle(fd)
	id, err := identify(fd)
	if err == nil && id == h.id {
		err = ErrHost
	}
	h.id, h.host = id, false
	return err
}

// identify proves that fd is a network namespace and says which.
func identify(fd int) (ID, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return ID{}, os.NewSyscallError("fstatfs", err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return ID{}, ErrNotNamespace
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return ID{}, os.NewSyscallError("ioctl NS_GET_NSTYPE", err)
	}
	if kind != unix.CLONE_NEWNET {
		return ID{}, fmt.Errorf("%w but one of another type (%#x)", ErrNotNamespace, kind)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ID{}, os.NewSyscallError("fstat", err)
	}
	return ID{Dev: uint64(st.Dev), Ino: st.Ino}, nil
}

// IsAt tells whether path leads to the namespace now. As long as the Handle is open no
// other namespace can be taken for it: the kernel does not use its number again.
func (h *Handle) IsAt(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && h.id == ID{Dev: uint64(st.Dev), Ino: st.Ino}
}

// ID says which namespace it is. It stays valid after Close.
func (h *Handle) ID() ID { return h.id }

// Close closes the Handle; dials that already have their socket go on. Closing again does nothing.
func (h *Handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, ns := range []*netns.NsHandle{&h.ns, &h.home} {
		if ns.IsOpen() {
			errs = append(errs, ns.Close())
		}
	}
	return errors.Join(errs...)
}

// socket makes a TCP socket of the given family inside the namespace. back takes the thread home.
func (h *Handle) socket(family int, back func(fd int) error) (int, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if !h.home.IsOpen() {
		return -1, net.ErrClosed
	}
	if h.host {
		return newSocket(family)
	}
	out := make(chan made, 1)
	go h.visit(family, back, out)
	m := <-out
	return m.fd, m.err
}

// made is what a visit brings home: a socket or an error.
type made struct {
	fd  int
	err error
}

// visit makes the socket on a thread of its own. It is always run as a goroutine, because a thread
// is destroyed only by a goroutine that ends while locked to it.
func (h *Handle) visit(family int, back func(fd int) error, out chan<- made) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// Locked to the main thread, this goroutine keeps the next one off it.
		elsewhere := make(chan made, 1)
		go h.visit(family, back, elsewhere)
		m := <-elsewhere
		runtime.UnlockOSThread()
		out <- m
		return
	}
	if err := netns.Set(h.ns); err != nil {
		runtime.UnlockOSThread()
		out <- made{-1, os.NewSyscallError("setns", err)}
		return
	}
	fd, err := newSocket(family)
	if lost := back(int(h.home)); lost != nil {
		if err == nil {
			_ = unix.Close(fd) // nothing was sent or received on it
		}
		out <- made{-1, os.NewSyscallError("setns back", lost)}
		return // still locked
	}
	runtime.UnlockOSThread()
	out <- made{fd, err}
}

func newSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	return fd, os.NewSyscallError("socket", err)
}
