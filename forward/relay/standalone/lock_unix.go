//go:build unix

package standalone

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
)

// lock is an advisory lock on a file, gone with the process at the latest. The
// file stays: removing it would let two processes lock two files of one name.
type lock struct {
	mu sync.Mutex
	f  *os.File
}

var errLocked = errors.New("in use")

// tryLock takes the lock or returns an error with errLocked in its chain.
func tryLock(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, errLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &lock{f: f}, nil
}

// takeLock holds the directory against other relays, and leaves the process id
// for the one who is refused.
func takeLock(path string) (*lock, error) {
	l, err := tryLock(path)
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("another relay%s uses this directory: %w", holder(path), err)
	}
	if err != nil {
		return nil, err
	}
	// Only for people: a lock without a number in it is as good.
	if err := l.f.Truncate(0); err == nil {
		fmt.Fprintf(l.f, "%d\n", os.Getpid())
	}
	return l, nil
}

func holder(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 16))
	if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
		return fmt.Sprintf(" (process %q)", pid)
	}
	return ""
}

// release is idempotent.
func (l *lock) release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}
