package netns_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/netns/netnstest"
)

// TestDecoy is why this package exists: something listens at home on the very port that is dialled
// inside, and no dial may ever reach it.
func TestDecoy(t *testing.T) {
	const dials, workers = 400, 16
	ns := netnstest.New(t)
	l := ns.Listen("tcp", "127.0.0.1:0")
	serve(t, l, say("pod"))
	reached := decoy(t, port(l))
	// The decoy stands: who dials at home does reach it.
	for _, addr := range []string{"127.0.0.1", "::1"} {
		c, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.ParseIP(addr), Port: int(port(l))})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	eventually(t, "decoy answers at home", func() bool { return reached.Load() == 2 })

	h := open(t, ns)
	var d netns.Dialer
	talk := func() error {
		c, err := d.Dial(t.Context(), h, port(l))
		if err != nil {
			return err
		}
		defer c.Close()
		if got, err := io.ReadAll(c); err != nil || string(got) != "pod" {
			t.Errorf("read %q, %v; want %q", got, err, "pod")
		}
		return nil
	}
	rounds := func(t *testing.T, want error) {
		one := func() {
			if err := talk(); !errors.Is(err, want) {
				t.Errorf("dial: %v, want %v", err, want)
			}
		}
		for range dials {
			one()
		}
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				for range dials / workers {
					one()
				}
			})
		}
		all.Wait()
		if n := reached.Load(); n != 2 {
			t.Fatalf("%d dials reached the decoy", n-2)
		}
	}
	t.Run("open in the pod", func(t *testing.T) { rounds(t, nil) })
	l.Close()
	t.Run("closed in the pod", func(t *testing.T) { rounds(t, syscall.ECONNREFUSED) })
	h.Close()
	t.Run("closed handle", func(t *testing.T) { rounds(t, net.ErrClosed) })
}

// TestSocketNamespace asks the kernel where the socket of a connection lives.
func TestSocketNamespace(t *testing.T) {
	ns := netnstest.New(t)
	l := ns.Listen("tcp", "127.0.0.1:0")
	h := open(t, ns)
	c := dial(t, h, port(l))
	var st unix.Stat_t
	var err error
	cerr := raw(t, c).Control(func(fd uintptr) {
		var in int
		if in, err = unix.IoctlRetInt(int(fd), unix.SIOCGSKNS); err == nil {
			err = unix.Fstat(in, &st)
			unix.Close(in)
		}
	})
	if err := errors.Join(err, cerr); err != nil {
		t.Fatal(err)
	}
	if got := (netns.ID{Dev: uint64(st.Dev), Ino: st.Ino}); got != h.ID() {
		t.Errorf("socket lives in %v, want %v", got, h.ID())
	}
}

// TestSelfConnect dials a closed port that the kernel hands out to dials: TCP would connect the
// socket with itself, and the user would talk to his own echo.
func TestSelfConnect(t *testing.T) {
	ns := netnstest.New(t)
	write(t, ns, "/proc/sys/net/ipv4/ip_local_port_range", "40000 40000")
	var d netns.Dialer
	if c, err := d.Dial(t.Context(), open(t, ns), 40000); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("dial: %v, %v; want %v", c, err, syscall.ECONNREFUSED)
	}
}
