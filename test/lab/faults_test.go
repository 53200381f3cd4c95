//go:build linux

package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/bits"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var errPipeReset = errors.New("pipe was reset")

// duplex is a connection in memory whose halves close separately; Close before
// CloseWrite is a reset.
type duplex struct {
	net.Conn // nil: only what is defined below is used
	r        *io.PipeReader
	w        *io.PipeWriter
}

func newDuplex() (a, b *duplex) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return &duplex{r: r1, w: w2}, &duplex{r: r2, w: w1}
}

func (d *duplex) Read(p []byte) (int, error)      { return d.r.Read(p) }
func (d *duplex) Write(p []byte) (int, error)     { return d.w.Write(p) }
func (d *duplex) CloseWrite() error               { return d.w.Close() }
func (d *duplex) SetReadDeadline(time.Time) error { return nil }
func (d *duplex) Close() error {
	d.w.CloseWithError(errPipeReset)
	return d.r.CloseWithError(errPipeReset)
}

// memListener hands out the connections put into it.
type memListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *memListener) Close() error   { close(l.closed); return nil }
func (l *memListener) Addr() net.Addr { return &net.TCPAddr{} }

// bubble is a proxy with one connection through it, in fake time.
type bubble struct {
	proxy          *Proxy
	client, server *duplex
	start          time.Time
}

// inBubble runs test against a proxy of that fault and queue.
func inBubble(t *testing.T, fault Fault, queue int, test func(*testing.T, *bubble)) {
	synctest.Test(t, func(t *testing.T) {
		client, near := newDuplex()
		far, server := newDuplex()
		ln := &memListener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
		b := &bubble{client: client, server: server, start: time.Now()}
		b.proxy = NewProxy(ProxyConfig{
			Listener: ln, Queue: queue,
			Dial: func(context.Context) (net.Conn, error) { return far, nil },
		})
		ended := make(chan error, 1)
		go func() { ended <- b.proxy.Serve(t.Context()) }()
		ln.conns <- near
		synctest.Wait()
		b.proxy.Set(fault)
		test(t, b)
		b.proxy.Close()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		if open := b.proxy.Stats().Open; open != 0 {
			t.Errorf("%d connections open after the end", open)
		}
	})
}

// expect reads text and wants it to arrive at that time after the start.
func (b *bubble) expect(t *testing.T, from io.Reader, text string, at time.Duration) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(from, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v, want %q", got, err, text)
	}
	if took := time.Since(b.start); took != at {
		t.Errorf("%q came after %v, want %v", text, took, at)
	}
}

func TestProxyDelay(t *testing.T) {
	fault := Fault{Up: Way{Delay: 50 * time.Millisecond}, Down: Way{Delay: 20 * time.Millisecond}}
	inBubble(t, fault, 0, func(t *testing.T, b *bubble) {
		io.WriteString(b.client, "ping")
		b.expect(t, b.server, "ping", 50*time.Millisecond)
		io.WriteString(b.server, "pong")
		b.expect(t, b.client, "pong", 70*time.Millisecond)
		b.client.CloseWrite()
		if n, err := b.server.Read(make([]byte, 1)); n != 0 || err != io.EOF || time.Since(b.start) != 120*time.Millisecond {
			t.Errorf("end: %d, %v after %v", n, err, time.Since(b.start))
		}
		io.WriteString(b.server, "late answer")
		b.expect(t, b.client, "late answer", 140*time.Millisecond)
		synctest.Wait()
		if s := b.proxy.Stats(); s.Up != 4 || s.Down != 15 || s.Accepted != 1 || s.Open != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestProxyDelayKeepsThroughput(t *testing.T) {
	const size = 4 << 20
	for _, test := range []struct {
		name  string
		way   Way
		queue int
		want  time.Duration
	}{
		{"delay alone", Way{Delay: 100 * time.Millisecond}, 0, 100 * time.Millisecond},
		{"queue too small", Way{Delay: 100 * time.Millisecond}, 1 << 20, 400 * time.Millisecond},
		{"rate", Way{Rate: 1 << 20}, 0, 4 * time.Second},
		{"rate and delay", Way{Rate: 4 << 20, Delay: 3 * time.Second}, 0, 4 * time.Second},
		{"slow", Way{Rate: 128 << 10}, 0, 32 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, BothWays(test.way), test.queue, func(t *testing.T, b *bubble) {
				go func() { // ends with the write, which the read below needs
					b.client.Write(make([]byte, size))
					b.client.CloseWrite()
				}()
				n, err := io.Copy(io.Discard, b.server)
				if n != size || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
				if took := time.Since(b.start); took < test.want-2*laneBurst || took > test.want+test.want/20 {
					t.Errorf("took %v, want %v", took, test.want)
				}
			})
		})
	}
}

func TestProxyStall(t *testing.T) {
	inBubble(t, BothWays(Way{Stall: true}), 0, func(t *testing.T, b *bubble) {
		go func() { // ends when the stall does
			b.client.Write(make([]byte, 1<<20))
			b.client.CloseWrite()
		}()
		time.Sleep(time.Hour)
		if s := b.proxy.Stats(); s.Up != 0 || s.Open != 1 {
			t.Errorf("stalled, and yet %+v", s)
		}
		b.proxy.Set(Fault{})
		if n, err := io.Copy(io.Discard, b.server); n != 1<<20 || err != nil {
			t.Errorf("after the stall %d bytes, %v", n, err)
		}
	})
}

func TestProxyBlackhole(t *testing.T) {
	inBubble(t, Fault{Up: Way{Blackhole: true}}, 0, func(t *testing.T, b *bubble) {
		if _, err := b.client.Write(make([]byte, 1<<20)); err != nil {
			t.Errorf("write into the hole: %v", err)
		}
		b.client.CloseWrite()
		io.WriteString(b.server, "down still works")
		b.expect(t, b.client, "down still works", 0)
		time.Sleep(time.Hour)
		if s := b.proxy.Stats(); s.Up != 0 || s.Open != 1 {
			t.Errorf("the hole let something out: %+v", s)
		}
	})
}

func TestProxyFaultsChangeWhileBytesTravel(t *testing.T) {
	inBubble(t, BothWays(Way{Delay: time.Second}), 0, func(t *testing.T, b *bubble) {
		io.WriteString(b.client, "slow ")
		synctest.Wait()
		b.proxy.Set(Fault{})
		io.WriteString(b.client, "fast")
		b.expect(t, b.server, "slow fast", time.Second) // nothing overtakes
	})
}

func TestProxyBursts(t *testing.T) {
	inBubble(t, Fault{Up: Way{Burst: time.Second}}, 0, func(t *testing.T, b *bubble) {
		for _, part := range []string{"a", "b", "c"} {
			time.Sleep(300 * time.Millisecond)
			io.WriteString(b.client, part)
		}
		b.expect(t, b.server, "abc", time.Second)
		time.Sleep(200 * time.Millisecond)
		io.WriteString(b.client, "d")
		b.expect(t, b.server, "d", 2*time.Second)
	})
}

func TestProxyCorrupts(t *testing.T) {
	inBubble(t, Fault{Down: Way{Corrupt: true}}, 0, func(t *testing.T, b *bubble) {
		io.WriteString(b.client, "up is well")
		b.expect(t, b.server, "up is well", 0)
		want, got := []byte("down is not"), make([]byte, len("down is not"))
		b.server.Write(want)
		io.ReadFull(b.client, got)
		wrong := 0
		for i := range got {
			wrong += bits.OnesCount8(got[i] ^ want[i])
		}
		if wrong != 1 {
			t.Errorf("%q came, with %d bits changed", got, wrong)
		}
	})
}

func TestProxyCutsAfter(t *testing.T) {
	inBubble(t, Fault{}, 0, func(t *testing.T, b *bubble) {
		io.WriteString(b.client, "before")
		b.expect(t, b.server, "before", 0)
		b.proxy.Set(Fault{Up: Way{CutAfter: 5}})
		go io.WriteString(b.client, "in mid-frame") // ends with the connection
		got, err := io.ReadAll(b.server)
		if string(got) != "in mi" || !errors.Is(err, errPipeReset) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestProxyAbandons(t *testing.T) {
	inBubble(t, Fault{}, 0, func(t *testing.T, b *bubble) {
		if n := b.proxy.Abandon(); n != 1 {
			t.Errorf("%d connections", n)
		}
		if _, err := b.server.Read(make([]byte, 1)); !errors.Is(err, errPipeReset) {
			t.Errorf("the side that was dialled: %v", err)
		}
		time.Sleep(time.Hour)
		if _, err := io.WriteString(b.client, "is anybody there?"); err != nil {
			t.Errorf("the side that dialled was told: %v", err)
		}
		b.client.Close()
		synctest.Wait()
		if s := b.proxy.Stats(); s.Open != 0 {
			t.Errorf("still open: %+v", s)
		}
	})
}

// viaProxy connects two TCP connections through a proxy on loopback.
func viaProxy(t *testing.T) (p *Proxy, client, server *net.TCPConn) {
	t.Helper()
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	target := listen()
	defer target.Close()
	p = NewProxy(ProxyConfig{Listener: listen(), Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", target.Addr().String())
	}})
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(context.Background()) }()
	t.Cleanup(func() {
		p.Close()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	near, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{near, far} {
		conn.SetDeadline(time.Now().Add(longEnough))
		t.Cleanup(func() { conn.Close() })
	}
	return p, near.(*net.TCPConn), far.(*net.TCPConn)
}

func TestProxyPassesBytesUnchanged(t *testing.T) {
	_, client, server := viaProxy(t)
	data := bytes.Repeat([]byte("0123456789abcde"), 1<<20)
	go func() { // ends with the write, which the read below needs
		client.Write(data)
		client.CloseWrite()
	}()
	got, err := io.ReadAll(server)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
		t.Fatalf("%d of %d bytes, %v", len(got), len(data), err)
	}
	io.WriteString(server, "answer after the end")
	server.CloseWrite()
	if got, err := io.ReadAll(client); err != nil || string(got) != "answer after the end" {
		t.Errorf("half-closed: %q, %v", got, err)
	}
}

func TestProxyCuts(t *testing.T) {
	for _, test := range []struct {
		name string
		cut  func(*Proxy, *net.TCPConn) int
		want error // of a read at the other side; nil is EOF
	}{
		{"reset", func(p *Proxy, _ *net.TCPConn) int { return p.CutReset() }, syscall.ECONNRESET},
		{"finish", func(p *Proxy, _ *net.TCPConn) int { return p.CutFinish() }, nil},
		{"close", func(p *Proxy, _ *net.TCPConn) int { p.Close(); return 1 }, syscall.ECONNRESET},
		{"peer resets", func(_ *Proxy, c *net.TCPConn) int { c.SetLinger(0); c.Close(); return 1 }, syscall.ECONNRESET},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, client, server := viaProxy(t)
			io.WriteString(client, "x")
			io.ReadFull(server, make([]byte, 1))
			if n := test.cut(p, client); n != 1 {
				t.Errorf("cut %d connections", n)
			}
			if rest, err := io.ReadAll(server); !errors.Is(err, test.want) || len(rest) > 0 {
				t.Errorf("server read %q, %v", rest, err)
			}
			if test.name == "peer resets" {
				return
			}
			if rest, err := io.ReadAll(client); !errors.Is(err, test.want) || len(rest) > 0 {
				t.Errorf("client read %q, %v", rest, err)
			}
			if _, err := client.Write([]byte("late")); err != nil && test.want == nil {
				t.Errorf("write after FIN: %v", err)
			}
		})
	}
}

func TestProxyInNetwork(t *testing.T) {
	n := ForTest(t, "client", "middle", "server")
	server := n.Host("server")
	startEcho(t, server.Namespace, "0.0.0.0:7000")
	p, err := n.Host("middle").Proxy("0.0.0.0:9000", server.Addr().String()+":7000")
	if err != nil {
		t.Fatal(err)
	}
	talk(t, n.Host("client").Namespace, n.Host("middle").Addr().String()+":9000", "through the middle")
	if s := p.Stats(); s.Up != 18 || s.Down != 18 || s.Accepted != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestProxyTargetRefuses(t *testing.T) {
	h := ForTest(t, "h").Host("h")
	if _, err := h.Proxy("127.0.0.1:9000", "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	conn, err := h.Dial(t.Context(), "127.0.0.1:9000")
	if err == nil { // otherwise the reset came before the dial was done
		defer conn.Close()
		_, err = io.ReadAll(conn)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}
