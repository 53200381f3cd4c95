package kubectl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/tools/portforward"

	"github.com/culvert-k8s/culvert/proto/stream"
)

var errOnPurpose = errors.New("on purpose")

// everyTransport runs f for both transports of kubectl.
func everyTransport(t *testing.T, f func(t *testing.T, transport string)) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) { f(t, transport) })
	}
}

func ping(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "ping" {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestKubectlEcho(t *testing.T) {
	everyTransport(t, func(t *testing.T, transport string) {
		p := newPod(nil)
		f := kubectl(t, serve(t, Config{}, p, true), transport, listen(t, echo))
		want := make([]byte, 5<<20)
		_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
		c := f.dial(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = c.Write(want)
			_ = c.CloseWrite()
		})
		got, err := io.ReadAll(c)
		wg.Wait()
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d of %d bytes came back: %v", len(got), len(want), err)
		}
		f.end()
		if f.err != nil {
			t.Errorf("kubectl ended with %v", f.err)
		}
		if door := map[string]string{"spdy": DoorSPDY, "websocket": DoorWebSocket}[transport]; p.doors[door] != 1 {
			t.Errorf("doors %v", p.doors)
		}
	})
}

// refusingPort1 is a pod whose port 1 is refused and whose others are of this host.
func refusingPort1() *pod {
	local := newPod(nil)
	return newPod(func(ctx context.Context, port uint16) (Connection, error) {
		if port == 1 {
			return nil, &stream.Error{Code: stream.NotListening, Text: "connection refused"}
		}
		return local.Dial(ctx, port, "test")
	})
}

// One refused port: its local socket is closed at once, and nothing else happens.
// Upstream ends the whole forward.
func TestKubectlRefusedPort(t *testing.T) {
	everyTransport(t, func(t *testing.T, transport string) {
		srv := serve(t, Config{}, refusingPort1(), true)
		f := kubectl(t, srv, transport, 1)
		for range 3 {
			if n, err := f.dial(t).Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("refused connection: %d, %v", n, err)
			}
		}
		if f.lost() {
			t.Errorf("kubectl has ended with %v", f.err)
		}
	})
}

func TestKubectlRefusedPortStrict(t *testing.T) {
	everyTransport(t, func(t *testing.T, transport string) {
		f := kubectl(t, serve(t, Config{Strict: true}, refusingPort1(), true), transport, 1)
		_, _ = f.dial(t).Read(make([]byte, 1))
		<-f.done
		if !errors.Is(f.err, portforward.ErrLostConnectionToPod) {
			t.Errorf("kubectl has ended with %v", f.err)
		}
	})
}

func TestKubectlPodResets(t *testing.T) {
	everyTransport(t, func(t *testing.T, transport string) {
		var reset atomic.Bool
		port := listen(t, func(c *net.TCPConn) {
			if !reset.Swap(true) {
				_, _ = io.ReadFull(c, make([]byte, 4))
				_ = c.SetLinger(0)
				return
			}
			echo(c)
		})
		f := kubectl(t, serve(t, Config{}, newPod(nil), true), transport, port)
		c := f.dial(t)
		_, _ = c.Write([]byte("ping"))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%d, %v", n, err)
		}
		ping(t, f.dial(t)) // kubectl lives
	})
}

// The pod ends first, as a server does that closes after its answer.
func TestKubectlPodFinishes(t *testing.T) {
	everyTransport(t, func(t *testing.T, transport string) {
		port := listen(t, func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 3))
			_, _ = io.WriteString(c, strings.Repeat("x", 100))
		})
		f := kubectl(t, serve(t, Config{}, newPod(nil), true), transport, port)
		for range 20 {
			c := f.dial(t)
			_, _ = io.WriteString(c, "abc")
			if got, err := io.ReadAll(c); len(got) != 100 || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
		}
		if f.lost() {
			t.Error("kubectl has ended")
		}
	})
}

// A download that its reader abandons: the next one works. (e2e: shutdown client
// connection while remote is writing.)
func TestKubectlAbandonedDownload(t *testing.T) {
	everyTransport(t, func(t *testing.T, transport string) {
		port := listen(t, func(c *net.TCPConn) {
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err == nil && b[0] == 'd' {
				_, _ = c.Write(make([]byte, 40<<20))
				return
			}
			_, _ = c.Write([]byte("ok"))
		})
		f := kubectl(t, serve(t, Config{}, newPod(nil), true), transport, port)
		for range 3 {
			c := f.dial(t)
			_, _ = c.Write([]byte("d"))
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			_ = c.Close()
			c = f.dial(t)
			_, _ = c.Write([]byte("o"))
			if got, err := io.ReadAll(c); string(got) != "ok" || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
		}
	})
}

// A stalled download stays one's own fault up to what kubectl itself can hold.
func TestKubectlStalledDownload(t *testing.T) {
	everyTransport(t, func(t *testing.T, transport string) {
		port := listen(t, func(c *net.TCPConn) {
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err == nil && b[0] == 'd' {
				_, _ = c.Write(make([]byte, 64<<20))
				return
			}
			_, _ = c.Write([]byte("ok"))
		})
		f := kubectl(t, serve(t, Config{}, newPod(nil), true), transport, port)
		stalled := f.dial(t)
		_, _ = stalled.Write([]byte("d"))
		if _, err := io.ReadFull(stalled, make([]byte, 10<<20)); err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, struct{ io.Reader }{stalled}) // it goes on, and whole
		if n != 54<<20 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		c := f.dial(t)
		_, _ = c.Write([]byte("o"))
		if got, err := io.ReadAll(c); string(got) != "ok" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestKubectlManyConnections(t *testing.T) {
	count := 1000
	if testing.Short() {
		count = 100
	}
	everyTransport(t, func(t *testing.T, transport string) {
		f := kubectl(t, serve(t, Config{}, newPod(nil), true), transport, listen(t, echo))
		var wg sync.WaitGroup
		errs := make(chan error, count)
		ready := make(chan struct{})
		for i := range count {
			wg.Go(func() {
				c, err := net.Dial("tcp", f.addr)
				if err != nil {
					errs <- err
					return
				}
				defer c.Close()
				word := fmt.Sprintf("connection %6d", i)
				got := make([]byte, len(word))
				for round := range 2 {
					_, _ = io.WriteString(c, word)
					if _, err := io.ReadFull(c, got); err != nil || string(got) != word {
						errs <- fmt.Errorf("%q, %w", got, err)
						return
					}
					if round == 0 {
						errs <- nil
						<-ready // all are open at once
					}
				}
			})
		}
		for range count {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		close(ready)
		wg.Wait()
		close(errs)
		for err := range errs {
			t.Error(err)
		}
	})
}

// The text of the end makes kubectl say so and exit with 1.
func TestKubectlSessionIsOver(t *testing.T) {
	everyTransport(t, func(t *testing.T, transport string) {
		for _, busy := range []bool{true, false} {
			p := newPod(nil)
			f := kubectl(t, serve(t, Config{}, p, true), transport, listen(t, echo))
			var c net.Conn
			if busy {
				c = f.dial(t)
				ping(t, c)
			}
			p.end(&stream.Error{Code: stream.PodNotFound, Text: "the pod is gone"})
			<-f.done
			if !errors.Is(f.err, portforward.ErrLostConnectionToPod) {
				t.Errorf("busy %v: kubectl has ended with %v", busy, f.err)
			}
		}
	})
}

// kubectl that is interrupted resets what runs.
func TestKubectlInterrupted(t *testing.T) {
	everyTransport(t, func(t *testing.T, transport string) {
		end := make(chan error, 1)
		port := listen(t, func(c *net.TCPConn) {
			_, err := io.Copy(c, struct{ io.Reader }{c})
			end <- err
		})
		f := kubectl(t, serve(t, Config{}, newPod(nil), true), transport, port)
		ping(t, f.dial(t))
		f.end()
		if err := <-end; err == nil {
			t.Error("the pod reads an end")
		}
		if f.err != nil {
			t.Errorf("kubectl has ended with %v", f.err)
		}
	})
}
