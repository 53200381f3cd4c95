//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Way is what happens to the bytes that go one way through a Proxy. The zero
// value passes them on at once.
type Way struct {
	// Delay is added to every byte and to the end of the stream, without lowering
	// throughput as long as the queue has room.
	Delay time.Duration
	// Rate limits the way to so many bytes a second; 0 means no limit.
	Rate int64
	// Stall stops reading and forwarding and keeps connections open: the sender
	// is held by flow control, nothing is lost, all goes on when it ends.
	Stall bool
	// Blackhole reads everything and forwards nothing, not even the end of a
	// stream: what is read meanwhile is acknowledged and gone for good.
	Blackhole bool
	// Burst delivers what has come only at whole multiples of it since the
	// connection began: many delays, each another, and then everything at once.
	Burst time.Duration
	// Corrupt changes one bit in each piece that is read.
	Corrupt bool
	// CutAfter resets the connection after so many more bytes of this way, counted
	// for each connection from the time that the fault was set; 0 means never.
	CutAfter int64
}

// held reports whether nothing gets through.
func (w Way) held() bool { return w.Stall || w.Blackhole }

// Fault is what a Proxy does to its connections.
type Fault struct {
	// Up goes from who dialled to who was dialled, Down comes back.
	Up, Down Way
}

// BothWays is the same fault in both directions.
func BothWays(w Way) Fault { return Fault{Up: w, Down: w} }

// ProxyConfig says what a Proxy is in front of.
type ProxyConfig struct {
	// Listener gives it connections; the Proxy owns it. Required.
	Listener net.Listener
	// Dial opens the connection behind each of them. Required.
	Dial func(context.Context) (net.Conn, error)
	// Queue bounds the bytes that are on their way in one direction of one
	// connection; 0 means 32 MiB, which is 1 GB/s over 32 ms.
	Queue int
}

// ProxyStats counts what a Proxy did.
type ProxyStats struct {
	// Accepted counts connections so far, Open those that have not ended.
	Accepted, Open int
	// Up and Down count bytes passed on.
	Up, Down int64
}

// Proxy passes TCP connections on and can delay, slow down, hold up, swallow,
// damage and cut them, since the kernel at hand cannot do so by itself. It works on bytes,
// not packets: it ends one TCP connection and begins another, so that who
// connects through it is connected at once whatever the delay. To lose packets
// instead, see [Host.Unplug].
type Proxy struct {
	cfg ProxyConfig

	mu      sync.Mutex
	fault   Fault
	changed chan struct{} // closed and replaced by Set
	closed  bool
	links   map[*link]struct{}
	stats   ProxyStats
}

// NewProxy returns a proxy without faults. Serve makes it work.
func NewProxy(cfg ProxyConfig) *Proxy {
	if cfg.Queue <= 0 {
		cfg.Queue = 32 << 20
	}
	return &Proxy{cfg: cfg, changed: make(chan struct{}), links: map[*link]struct{}{}}
}

// Proxy listens on a literal address in the namespace and passes connections on
// to another one, dialled from the same namespace. It runs until it or the
// Network is closed.
func (s *Namespace) Proxy(listen, target string) (*Proxy, error) {
	ln, err := s.Listen(listen)
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	p := NewProxy(ProxyConfig{
		Listener: ln,
		Dial:     func(ctx context.Context) (net.Conn, error) { return s.Dial(ctx, target) },
	})
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(context.Background()) }() // waited for at Close of the network
	s.net.OnClose(func() error {
		p.Close()
		return <-ended
	})
	return p, nil
}

// Addr returns the address that the proxy listens on.
func (p *Proxy) Addr() net.Addr { return p.cfg.Listener.Addr() }

// Serve passes connections on until ctx ends or Close is called, which reset all
// connections; it returns when the last one has ended. The error is nil unless
// accepting failed otherwise.
func (p *Proxy) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		p.Close()
	})
	for {
		conn, err := p.cfg.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
		l := newLink(p, conn)
		if !p.admit(l) {
			reset(conn)
			continue
		}
		wg.Go(func() {
			defer p.forget(l)
			l.run(ctx)
		})
	}
}

func (p *Proxy) admit(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.links[l] = struct{}{}
	p.stats.Accepted++
	p.stats.Open++
	return true
}

func (p *Proxy) forget(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
	p.stats.Open--
}

// Set makes fault the proxy's behaviour from now on, for the connections it has
// too. Bytes already on their way keep the delay they began with.
func (p *Proxy) Set(fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
	close(p.changed)
	p.changed = make(chan struct{})
}

// current returns the fault and a channel that is closed when it changes.
func (p *Proxy) current() (Fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault, p.changed
}

// CutReset resets all connections on both sides and returns how many they were.
// New ones are accepted as before.
func (p *Proxy) CutReset() int { return p.cut(endReset) }

// CutFinish ends all connections on both sides as if each peer had finished, with
// FIN, whatever was still on its way. It returns how many they were.
func (p *Proxy) CutFinish() int { return p.cut(endFinish) }

// Abandon resets all connections on the side that was dialled and leaves those
// who dialled in the belief that they are connected, as a peer does that lost
// its power or a router that forgot them. It returns how many they were.
func (p *Proxy) Abandon() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.abandon()
	}
	return len(p.links)
}

func (p *Proxy) cut(how ending) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.end(how)
	}
	return len(p.links)
}

// Stats returns the counts so far.
func (p *Proxy) Stats() ProxyStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

func (p *Proxy) count(up bool, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if up {
		p.stats.Up += int64(n)
	} else {
		p.stats.Down += int64(n)
	}
}

// Close stops listening and resets all connections. It does not wait: Serve
// returns when all is over. Idempotent.
func (p *Proxy) Close() error {
	p.mu.Lock()
	already := p.closed
	p.closed = true
	p.mu.Unlock()
	if already {
		return nil
	}
	p.cut(endReset)
	return p.cfg.Listener.Close()
}
