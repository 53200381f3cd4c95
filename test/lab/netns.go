//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// threadNetns names the namespace of the calling thread. /proc/self would name
// that of the main thread.
const threadNetns = "/proc/thread-self/ns/net"

// errLeftEarly reports a function that ended its goroutine, as t.FailNow does,
// instead of returning.
var errLeftEarly = errors.New("function left its goroutine instead of returning")

// onThread runs fn on a thread of its own and puts that thread back into the
// network namespace it came from. A thread that cannot go home is never handed
// back to the scheduler: it ends with its goroutine.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errLeftEarly
		defer func() { done <- err }()
		runtime.LockOSThread()
		home, openErr := os.Open(threadNetns)
		if openErr != nil {
			runtime.UnlockOSThread()
			err = openErr
			return
		}
		defer func() {
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			home.Close()
		}()
		err = fn()
	}()
	return <-done
}

// inNetns runs fn on a thread inside the network namespace that path names. fn
// must not start goroutines that rely on the namespace, nor call t.FailNow.
func inNetns(path string, fn func() error) error {
	return onThread(func() error {
		target, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		defer target.Close()
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return fn()
	})
}

// makeNetns makes a network namespace and pins it by a bind mount on path.
func makeNetns(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	f.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(threadNetns, path, "none", unix.MS_BIND, "")
	})
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("make network namespace %s: %w", path, err)
	}
	return nil
}

// dropNetns takes away the bind mount that makeNetns made. The namespace itself
// ends when the last process and socket in it do.
func dropNetns(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}
