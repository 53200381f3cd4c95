//go:build unix

package tunnel

import "syscall"

const canTryWrite = true

// tryWrite writes what a socket takes at once. Go's sockets never block in the
// kernel. An error counts as nothing written: the next write that may wait
// meets it again.
func tryWrite(fd uintptr, p []byte) int {
	for {
		n, err := syscall.Write(int(fd), p)
		if err == syscall.EINTR {
			continue
		}
		return max(0, n)
	}
}
