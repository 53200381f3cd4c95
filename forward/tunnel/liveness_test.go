package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// gate is a connection that can be made to swallow or to block.
type gate struct {
	net.Conn
	swallow, block atomic.Bool
	closed         chan struct{}
	once           sync.Once
}

func newGate(c net.Conn) *gate { return &gate{Conn: c, closed: make(chan struct{})} }

func (g *gate) Write(p []byte) (int, error) {
	if g.block.Load() {
		<-g.closed
		return 0, net.ErrClosed
	}
	if g.swallow.Load() {
		return len(p), nil
	}
	return g.Conn.Write(p)
}

func (g *gate) Close() error {
	g.once.Do(func() { close(g.closed) })
	return g.Conn.Close()
}

func TestStalledCarrierIsNoticed(t *testing.T) {
	for _, c := range []struct {
		name  string
		stall func(a, b *gate)
		busy  bool
	}{
		{"everything vanishes, idle", func(a, b *gate) { a.swallow.Store(true); b.swallow.Store(true) }, false},
		{"everything vanishes, busy", func(a, b *gate) { a.swallow.Store(true); b.swallow.Store(true) }, true},
		{"nothing is taken, idle", func(a, b *gate) { a.block.Store(true); b.block.Store(true) }, false},
		{"nothing is taken, busy", func(a, b *gate) { a.block.Store(true); b.block.Store(true) }, true},
		{"one way only", func(a, b *gate) { a.block.Store(true); b.swallow.Store(true) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				x, y := net.Pipe()
				a, b := newGate(x), newGate(y)
				client, server := sessions(t, Plain(a), Plain(b), Config{})
				st, far := streams(t, client, server)
				time.Sleep(20 * time.Second) // pings went to and fro
				reads := result(func() error { _, err := st.Read(make([]byte, 1)); return err })
				var writes []<-chan error
				if c.busy {
					up, down := streams(t, client, server)
					go io.Copy(io.Discard, down)
					writes = append(writes, result(func() error { return source(up, 1<<20) }))
					lingers, _ := streams(t, client, server)
					lingers.Close()
				}
				c.stall(a, b)
				for _, s := range []*Session{client, server} {
					if s.Err() != nil {
						t.Fatal(s.Err())
					}
				}
				if c.busy {
					writes = append(writes, result(func() error { return source(far, -1) }))
				}
				began := time.Now()
				<-client.Done()
				<-server.Done()
				// The grain of the watch is a second, three times: until it asks, until
				// it sees that the question has left, until the answer is late.
				if took, most := time.Since(began), 15*time.Second+3*time.Second; took > most {
					t.Errorf("noticed after %v, want at most %v", took, most)
				}
				lost(t, "reader", <-reads)
				for _, w := range writes {
					<-w
				}
				client.Close()
				server.Close()
			})
		})
	}
}

// The frame that is coming in holds up whoever looks after its stream; it must
// not hold up the watch.
func TestStallWithinAFrameIsNoticed(t *testing.T) {
	s, peer := withRawPeer(t, Config{PingAfter: 50 * time.Millisecond, DeadAfter: 100 * time.Millisecond, Linger: time.Millisecond})
	var sts []*Stream
	for i := range 3 {
		peer.send(typeWindow, flagSYN, uint32(2*i+1), 0)
		st, err := s.Accept(background(t))
		if err != nil {
			t.Fatal(err)
		}
		sts = append(sts, st)
	}
	for _, st := range sts[1:] {
		st.Close()
	}
	peer.send(typeData, 0, 1, 1000, make([]byte, 10)...)
	eventually(t, "frame begun", func() bool { return s.in.silence() > 10*time.Millisecond })
	read := result(func() error { _, err := io.Copy(io.Discard, sts[0]); return err })
	go peer.halt()
	await(t, "end", s.Done())
	if !errors.Is(s.Err(), ErrDead) {
		t.Error(s.Err())
	}
	lost(t, "reader", await(t, "reader", read))
}

// lazyLink is a connection that takes up to depth bytes at once and hands them
// on at a rate, frame by frame: while a part of one is there, yamux holds a
// mutex, and fake time stands still for whoever waits for a mutex.
type lazyLink struct {
	net.Conn
	queue chan []byte
	mu    sync.Mutex
	room  *sync.Cond
	fill  int
	depth int
	err   error
}

func newLazyLink(c net.Conn, rate, depth int) *lazyLink {
	l := &lazyLink{Conn: c, queue: make(chan []byte, 1<<16), depth: depth}
	l.room = sync.NewCond(&l.mu)
	go func() {
		for p := range l.queue {
			time.Sleep(time.Duration(len(p)) * time.Second / time.Duration(rate))
			_, err := c.Write(p)
			l.mu.Lock()
			l.fill -= len(p)
			if err != nil {
				l.err = err
			}
			l.room.Broadcast()
			l.mu.Unlock()
		}
	}()
	return l
}

func (l *lazyLink) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := muxHeader
		if rest[1] == typeData {
			n += int(binary.BigEndian.Uint32(rest[8:]))
		}
		b := bytes.Clone(rest[:n])
		l.mu.Lock()
		for l.fill > l.depth && l.err == nil {
			l.room.Wait()
		}
		l.fill += len(b)
		err := l.err
		if err == nil {
			l.queue <- b
		}
		l.mu.Unlock()
		if err != nil {
			return 0, err
		}
		rest = rest[len(b):]
	}
	return len(p), nil
}

func (l *lazyLink) Close() error {
	err := l.Conn.Close()
	l.mu.Lock()
	if l.err == nil {
		l.err = net.ErrClosed
		close(l.queue)
	}
	l.room.Broadcast()
	l.mu.Unlock()
	return err
}

func TestSlowLinkLives(t *testing.T) {
	for name, c := range map[string]struct{ rate, depth, streams int }{
		"shallow queue":  {64 << 10, 16 << 10, 4},
		"deep queue":     {64 << 10, 1 << 20, 4},
		"deeper still":   {64 << 10, 4 << 20, 16},
		"crawling":       {32 << 10, 64 << 10, 2},
		"slow and alone": {64 << 10, 1 << 20, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				x, y := net.Pipe()
				client, server := sessions(t, Plain(newLazyLink(x, c.rate, c.depth)), Plain(y), Config{})
				var up, down []*Stream
				for range c.streams {
					a, b := streams(t, client, server)
					up, down = append(up, a), append(down, b)
				}
				for i := range up {
					go source(up[i], -1)
					go io.Copy(io.Discard, down[i])
				}
				select {
				case <-client.Done():
					t.Errorf("client: %v", client.Err())
				case <-server.Done():
					t.Errorf("server: %v", server.Err())
				case <-time.After(5 * time.Minute):
				}
				client.Close()
				server.Close()
				time.Sleep(time.Hour) // the link empties
			})
		})
	}
}

// After this process, or the machine, was stopped for a while, what came in
// meanwhile has not been read yet.
func TestOwnPauseKillsNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		car := Plain(a)
		in, out := newInbound(car, nil, new(Memory)), newOutbound(car, car.rec, nil)
		cfg := Config{}.withDefaults()
		live := liveness{cfg: cfg, car: car, in: in, out: out, ticked: time.Now()}
		tick := func() error { return live.tick(time.Now()) }
		steps := func(d time.Duration) (err error) {
			for end := time.Now().Add(d); time.Now().Before(end) && err == nil; {
				time.Sleep(time.Second)
				err = tick()
			}
			return err
		}
		if err := steps(cfg.PingAfter + cfg.DeadAfter/2); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // asked, and then stopped
		if err := tick(); err != nil {
			t.Fatalf("killed at the first look after a pause: %v", err)
		}
		if err := steps(cfg.DeadAfter - 2*time.Second); err != nil {
			t.Fatalf("the peer got no new time to answer: %v", err)
		}
		if err := steps(5 * time.Second); !errors.Is(err, ErrDead) {
			t.Fatalf("a dead peer is never noticed after a pause: %v", err)
		}
		out.fail(nil)
	})
}

// Whatever the two timers are, a dead peer is found.
func TestTimersOfAnySizeFindADeadPeer(t *testing.T) {
	for _, cfg := range []Config{
		{PingAfter: time.Minute, DeadAfter: time.Second},
		{PingAfter: time.Second, DeadAfter: time.Minute},
	} {
		bubble(t, func(t *testing.T) {
			a, b := net.Pipe()
			s, err := NewSession(Plain(a), true, cfg)
			if err != nil {
				t.Fatal(err)
			}
			go io.Copy(io.Discard, b)
			select {
			case <-s.Done():
			case <-time.After(2 * (cfg.PingAfter + cfg.DeadAfter)):
				t.Errorf("%v and %v: never noticed", cfg.PingAfter, cfg.DeadAfter)
			}
			s.Close()
			b.Close()
		})
	}
}

// Over TCP the peer's kernel tells how far it is; one write may take longer
// than a peer may be silent.
func TestSlowReaderOverTCPLivesUntilItStops(t *testing.T) {
	a, b := tcpPair(t)
	a.(*net.TCPConn).SetWriteBuffer(32 << 10)
	b.(*net.TCPConn).SetReadBuffer(64 << 10)
	s, err := NewSession(Plain(a), true, Config{PingAfter: 50 * time.Millisecond, DeadAfter: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	defer s.Close()
	for range 4 {
		st, err := s.Open(background(t))
		if err != nil {
			t.Fatal(err)
		}
		go source(st, -1)
	}
	p := make([]byte, 8<<10)
	// A flush of 256 KiB takes more than five seconds. The window opens again after
	// a second or so, later if the cores are taken.
	for range 50 {
		time.Sleep(160 * time.Millisecond)
		if _, err := io.ReadFull(b, p); err != nil {
			t.Fatalf("%v; %v", err, s.Err())
		}
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
	await(t, "end", s.Done())
	if !errors.Is(s.Err(), ErrDead) {
		t.Error(s.Err())
	}
}
