//go:build unix

package tunnel

import (
	"context"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

func cpuTime(t testing.TB) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// crowd puts blocked readers on every stream at both ends, and writers on some.
func crowd(t *testing.T, client, server *Session, readers, writers int) *sync.WaitGroup {
	t.Helper()
	var wg sync.WaitGroup
	var busy []*Stream // they begin when all are open: opening waits behind them
	for i := range readers + writers {
		a, b := streams(t, client, server)
		wg.Go(func() { io.Copy(io.Discard, a) })
		wg.Go(func() { io.Copy(io.Discard, b) })
		if i < writers {
			busy = append(busy, a, b)
		}
	}
	for _, st := range busy {
		wg.Go(func() { source(st, -1) })
	}
	return &wg
}

// A yamux session that shuts down with readers inside lets them spin. None are
// inside: nobody reads or writes through it.
func TestShutdownWithThousandsOfReadersCostsNothing(t *testing.T) {
	for name, end := range map[string]func(client, server *Session, raw *net.TCPConn){
		"cut":     func(_, _ *Session, raw *net.TCPConn) { raw.SetLinger(0); raw.Close() },
		"closed":  func(client, _ *Session, _ *net.TCPConn) { client.Close() },
		"garbage": func(client, _ *Session, _ *net.TCPConn) { client.out.inject([]byte("GET / HTTP/1.1")) },
		// These yamux would find too, later.
		"opened twice": func(client, _ *Session, _ *net.TCPConn) {
			client.out.inject(muxControl(typeWindow, flagSYN, 1, 0))
		},
		"finished twice": func(client, _ *Session, _ *net.TCPConn) {
			client.out.inject(muxControl(typeWindow, flagFIN, 1, 0))
			client.out.inject(muxControl(typeWindow, flagFIN, 1, 0))
		},
		"beyond credit": func(client, _ *Session, _ *net.TCPConn) { client.out.inject(muxControl(typeData, 0, 1, 1<<30)) },
	} {
		t.Run(name, func(t *testing.T) {
			readers, writers := 3936, 64
			if name != "cut" {
				readers = 400 // more only cost time
			}
			a, b := tcpPair(t)
			client, server := sessions(t, Plain(a), Plain(b), Config{MaxStreams: 4000})
			wg := crowd(t, client, server, readers, writers)
			before := cpuTime(t)
			end(client, server, a.(*net.TCPConn))
			await(t, "readers and writers", result(func() error { wg.Wait(); return nil }))
			client.Close()
			server.Close()
			if used := cpuTime(t) - before; used > 10*time.Second {
				t.Errorf("it took %v of processor time", used)
			}
		})
	}
}

// Close does not wait for a peer that takes nothing.
func TestCloseWithAStalledPeerIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		x, y := net.Pipe()
		a := newGate(x)
		client, server := sessions(t, Plain(a), Plain(y), Config{})
		st, _ := streams(t, client, server)
		time.Sleep(time.Millisecond)
		a.block.Store(true)
		wrote := result(func() error { return source(st, -1) })
		time.Sleep(time.Second)
		began := time.Now()
		client.Close()
		if took := time.Since(began); took > flushLimit+farewellLimit {
			t.Errorf("took %v", took)
		}
		lost(t, "writer", <-wrote)
		server.Close()
	})
}

// Over TCP the farewell is bounded too.
func TestCloseWithASilentTCPPeerEnds(t *testing.T) {
	a, b := tcpPair(t)
	defer b.Close()
	s, err := NewSession(Plain(a), true, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := await(t, "close", result(s.Close)); err != nil {
		t.Error(err)
	}
}

func TestSessionsLeaveNoDescriptorBehind(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(entries)
	}
	one := func(i int) {
		client, server := plainSessions(t, Config{})
		a, b := streams(t, client, server)
		a.Write([]byte("x"))
		b.Read(make([]byte, 1))
		switch i % 3 {
		case 0:
			client.Close()
			<-server.Done()
		case 1:
			server.car.cut()
			<-client.Done()
		}
		client.Close()
		server.Close()
	}
	one(0)
	before, routines := count(), runtime.NumGoroutine()
	for i := range 200 {
		one(i)
	}
	eventually(t, "descriptors closed", func() bool { return count() <= before })
	eventually(t, "goroutines ended", func() bool { return runtime.NumGoroutine() <= routines })
}

// Memory of what does nothing is printed, not judged: it depends on the
// machine and on the race detector.
func TestMemoryOfIdleSessionsAndStreams(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	client, server := tlsSessions(t, Config{PingAfter: 100 * time.Millisecond})
	before := heap()
	const n = 500
	for range n {
		a, b := streams(t, client, server)
		go a.Write([]byte("x"))
		b.Read(make([]byte, 1))
	}
	t.Logf("idle stream, both ends: %d bytes", (heap()-before)/n)

	before = heap()
	const m = 50
	for range m {
		c, s := tlsSessions(t, Config{PingAfter: 100 * time.Millisecond})
		go s.Serve(context.Background(), func(st *Stream) { io.Copy(st, st); st.Close() })
		a, err := c.Open(background(t))
		if err != nil {
			t.Fatal(err)
		}
		source(a, 256<<10)
		io.CopyN(io.Discard, a, 256<<10)
		a.Close()
	}
	time.Sleep(300 * time.Millisecond) // buffers are given back
	t.Logf("idle session after use, both ends: %d bytes", (heap()-before)/m)
}

// What the kernel still holds at Close is not lost because something comes in:
// a kernel answers that with a reset, and forgets the rest.
func TestCloseWaitsForThePeerToHangUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	small := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<10) })
	}}
	a, err := small.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b.(*net.TCPConn).SetWriteBuffer(1 << 20)
	s, err := NewSession(Plain(b), false, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer s.Close()
	if _, err := a.Write(muxControl(typeWindow, flagSYN, 1, 0)); err != nil {
		t.Fatal(err)
	}
	st, err := s.Accept(background(t))
	if err != nil {
		t.Fatal(err)
	}
	const n = 100 << 10 // the two kernels hold it between them
	if err := source(st, n); err != nil {
		t.Fatal(err)
	}
	closed := result(s.Close)
	time.Sleep(100 * time.Millisecond)
	a.Write(muxControl(typePing, flagACK, 0, 0))
	time.Sleep(10 * time.Millisecond)
	a.SetReadDeadline(time.Now().Add(patience))
	got, err := io.Copy(io.Discard, a)
	if err != nil || got < n {
		t.Errorf("%d bytes came of more than %d: %v", got, n, err)
	}
	a.Close()
	if err := await(t, "close", closed); err != nil {
		t.Error(err)
	}
}
