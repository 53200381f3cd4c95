package netns_test

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/netns/netnstest"
)

// passed returns a copy of the descriptor of c, as another process would get it.
func passed(t *testing.T, c *netns.Conn) int {
	t.Helper()
	fd := -1
	var err error
	if e := raw(t, c).Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return fd
}

// TestAdopt goes on with a socket that was dialled elsewhere, after whoever dialled
// it has let go of it.
func TestAdopt(t *testing.T) {
	c, pod := pair(t)
	fd := passed(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	to := c.RemoteAddr().(*net.TCPAddr)
	own, err := netns.Adopt(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if own.RemoteAddr().String() != to.String() || own.LocalAddr().String() != c.LocalAddr().String() {
		t.Errorf("%v to %v, was %v to %v", own.LocalAddr(), own.RemoteAddr(), c.LocalAddr(), to)
	}
	io.WriteString(own, "question")
	own.CloseWrite()
	hears(t, pod, "question")
	io.WriteString(pod, "answer")
	pod.CloseWrite()
	hears(t, own, "answer")
}

// TestAdoptRefuses takes no other socket and no other file, and keeps none open.
func TestAdoptRefuses(t *testing.T) {
	plain, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	pipe := make([]int, 2)
	if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	unixPair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, fd := range map[string]int{
		"not connected": plain, "a pipe": pipe[0], "the pipe's other": pipe[1],
		"of another kind": unixPair[0], "its other end": unixPair[1],
		"not on a loopback": elsewhere(t), "nothing": 1 << 20,
	} {
		if got, err := netns.Adopt(fd); err == nil {
			t.Errorf("%s: taken, to %v", name, got.RemoteAddr())
			got.Close()
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
			t.Errorf("%s: descriptor is left: %v", name, err)
		}
	}
}

// elsewhere returns a socket that is connected with an address of a namespace that
// is no loopback.
func elsewhere(t *testing.T) int {
	t.Helper()
	ns := netnstest.New(t)
	var fd int
	var err error
	ns.Do(func() {
		var out []byte
		if out, err = exec.CommandContext(t.Context(), "ip", "address", "add", "192.0.2.1/32", "dev", "lo").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
			return
		}
		var l net.Listener
		if l, err = net.Listen("tcp4", "192.0.2.1:0"); err != nil {
			return
		}
		t.Cleanup(func() { l.Close() })
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}, Port: l.Addr().(*net.TCPAddr).Port})
	})
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
