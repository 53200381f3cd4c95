// Package netns opens a Linux network namespace and dials localhost TCP inside it.
//
// It exists to make one mistake impossible: a connection meant for a pod that ends on the
// loopback of the process itself. Three rules see to that.
//
//   - A [Handle] is proof. Open asks the kernel whether the file is a network namespace, remembers
//     which one (device and inode), and refuses the namespace the process lives in.
//   - Only literal addresses are dialled, 127.0.0.1 and then ::1, one after the other. A name would
//     be resolved, and a race of address families run, on threads that never left home.
//   - A socket belongs for ever to the namespace it was made in. So a thread visits the namespace
//     for socket(2) alone, and everything that can wait (connect, read, write) happens at home on
//     the runtime's poller. A dial that waits holds no thread. A thread that cannot go home is
//     never used again: its goroutine ends while locked to it, so the runtime destroys it.
//
// The main thread never visits: /proc/<pid>/ns/net shows its namespace as the one of the whole
// process, and the runtime cannot destroy it.
//
// Visiting a namespace needs CAP_SYS_ADMIN. Everything here needs Linux; elsewhere Open, OpenHost
// and Dial return [ErrUnsupported].
package netns

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

var (
	// ErrHost says that the namespace is the one this process lives in. Only OpenHost gives that.
	ErrHost = errors.New("network namespace of this process itself")
	// ErrNotNamespace says that the file is something other than a network namespace.
	ErrNotNamespace = errors.New("not a network namespace")
	// ErrGone says that the path no longer exists, most likely because the pod is gone.
	ErrGone = errors.New("network namespace is gone")
	// ErrBusy says that a dial gave up waiting for its turn. The reason it stopped waiting is in the
	// same chain: the context's error, or context.DeadlineExceeded for Dialer.Timeout.
	ErrBusy = errors.New("too many dials in flight")
	// ErrUnsupported says that this system is not Linux.
	ErrUnsupported = errors.New("network namespaces need Linux")
)

// ID tells namespaces of one running kernel apart. It is comparable. A number may be used again
// once the namespace is gone, so an ID identifies only as long as something keeps it alive, such as
// an open Handle.
type ID struct {
	Dev, Ino uint64 // of the namespace's file
}

// String is the form of /proc/<pid>/ns/net with the device in front, as in "4:net:[4026531840]".
func (id ID) String() string { return fmt.Sprintf("%d:net:[%d]", id.Dev, id.Ino) }

// Dialer dials inside namespaces. Its zero value works. It is safe for use by many goroutines and
// must not be copied or changed after the first Dial.
type Dialer struct {
	// MaxInFlight bounds the dials under way at one time, over all namespaces; more wait for their
	// turn. From 1 up; 0 (or less) means 256.
	MaxInFlight int
	// Timeout bounds one Dial as a whole: waiting for its turn and both addresses. The context may
	// end it sooner. 0 (or less) means 5 s.
	Timeout time.Duration

	once  sync.Once
	slots chan struct{}

	// home replaces the system call of the way home, so that a test can make it fail.
	home func(fd int) error
}

// turns is the dials in flight, with a place for each that may be.
func (d *Dialer) turns() chan struct{} {
	d.once.Do(func() {
		n := d.MaxInFlight
		if n <= 0 {
			n = 256
		}
		d.slots = make(chan struct{}, n)
	})
	return d.slots
}

// acquire waits for a turn, until the deadline at most. release ends it.
func (d *Dialer) acquire(ctx context.Context, deadline time.Time) error {
	turns := d.turns()
	select {
	case turns <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case turns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	case <-t.C:
		return fmt.Errorf("%w: %w", ErrBusy, context.DeadlineExceeded)
	}
}

func (d *Dialer) release() { <-d.turns() }

func (d *Dialer) timeout() time.Duration {
	if d.Timeout <= 0 {
		return 5 * time.Second
	}
	return d.Timeout
}
