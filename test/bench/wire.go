//go:build linux

package main

import (
	"context"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// segment is how many bytes a lost packet carries.
const segment = 1448

// weather is what the delaying proxies do to one leg.
type weather struct {
	// RTT is the round trip that is added.
	RTT time.Duration
	// Loss is the part of the segments that are lost, 0 to 1. A lost segment holds up
	// its connection for a round trip, which is what it takes to be sent again;
	// that senders slow down then is not modelled.
	Loss float64
}

// leg is a delaying proxy in front of one address.
type leg struct {
	proxy *lab.Proxy
	loss  atomic.Pointer[weather]
	ended chan error
}

// newLeg starts a proxy on a host, for connections from that host to target.
func newLeg(s *lab.Namespace, listen, target string) (*leg, error) {
	ln, err := s.Listen(listen)
	if err != nil {
		return nil, err
	}
	l := &leg{ended: make(chan error, 1)}
	l.loss.Store(&weather{})
	l.proxy = lab.NewProxy(lab.ProxyConfig{
		Listener: &lossyListener{TCPListener: ln, leg: l},
		Dial: func(ctx context.Context) (net.Conn, error) {
			conn, err := s.Dial(ctx, target)
			if err != nil {
				return nil, err
			}
			return &lossyConn{TCPConn: conn, leg: l}, nil
		},
		// Room for what is under way at 1 GB/s and the longest delay, and no more:
		// what waits here is memory of nobody under test.
		Queue: 64 << 20,
	})
	go func() { l.ended <- l.proxy.Serve(context.Background()) }() // waited for in close
	return l, nil
}

func (l *leg) close() error {
	_ = l.proxy.Close()
	return <-l.ended
}

func (l *leg) addr() string { return l.proxy.Addr().String() }

// set makes the weather, for connections that are there too.
func (l *leg) set(w weather) {
	l.loss.Store(&w)
	l.proxy.Set(lab.BothWays(lab.Way{Delay: w.RTT / 2}))
}

// lossyListener accepts connections that lose segments.
type lossyListener struct {
	*net.TCPListener
	leg *leg
}

// Accept returns the next connection.
func (l *lossyListener) Accept() (net.Conn, error) {
	conn, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return &lossyConn{TCPConn: conn, leg: l.leg}, nil
}

// lossyConn reads late what was lost.
type lossyConn struct {
	*net.TCPConn
	leg  *leg
	left int64 // bytes until the next loss; 0: not decided
}

// Read waits for a round trip when one of the segments that it reads was lost.
func (c *lossyConn) Read(p []byte) (int, error) {
	w := c.leg.loss.Load()
	if w.Loss <= 0 {
		return c.TCPConn.Read(p)
	}
	if c.left <= 0 {
		// Not drawn as chance would have it: a measurement is too short for that, and
		// the ways would differ by their luck.
		c.left = int64((0.75+rand.Float64()/2)/w.Loss+1) * segment
	}
	n, err := c.TCPConn.Read(p[:min(int64(len(p)), c.left)])
	if c.left -= int64(n); c.left <= 0 {
		time.Sleep(w.RTT) // a connection that ends meanwhile is noticed after it
	}
	return n, err
}
