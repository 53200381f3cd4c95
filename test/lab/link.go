//go:build linux

package lab

import (
	"context"
	"net"
	"sync"
	"time"
)

// finishGrace bounds how long a connection cut with FIN waits for its peer.
// Closing earlier would answer late data with RST.
const finishGrace = 5 * time.Second

// ending says how a link is to end.
type ending uint8

const (
	endNone ending = iota
	endReset
	endFinish
)

// link is one connection through a Proxy: two TCP connections, and a lane for
// each direction.
type link struct {
	proxy  *Proxy
	client net.Conn
	began  time.Time
	done   chan struct{} // closed by end

	mu     sync.Mutex
	server net.Conn // nil until dialled
	how    ending
	lanes  []*lane
	alone  bool // the side that was dialled is gone, and the other is not told
}

func newLink(p *Proxy, client net.Conn) *link {
	return &link{proxy: p, client: client, began: time.Now(), done: make(chan struct{})}
}

// run dials and carries both directions until both have ended.
func (l *link) run(ctx context.Context) {
	defer l.close()
	if !l.waitClear() {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var dialing sync.WaitGroup
	dialing.Go(func() {
		select {
		case <-l.done:
			cancel()
		case <-ctx.Done():
		}
	})
	server, err := l.proxy.cfg.Dial(ctx)
	cancel()
	dialing.Wait()
	if err != nil {
		l.end(endReset)
		return
	}
	if !l.connect(server) {
		return
	}
	var wg sync.WaitGroup
	for _, lane := range l.lanes {
		wg.Go(lane.read)
		wg.Go(lane.write)
	}
	wg.Wait()
}

// connect takes the connection behind the proxy; false if the link has ended.
func (l *link) connect(server net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server = server
	l.lanes = []*lane{newLane(l, true, l.client, server), newLane(l, false, server, l.client)}
	return l.how == endNone
}

// waitClear waits until bytes get through in both directions; false if the link
// has ended.
func (l *link) waitClear() bool {
	for {
		fault, changed := l.proxy.current()
		if !fault.Up.held() && !fault.Down.held() {
			return true
		}
		select {
		case <-changed:
		case <-l.done:
			return false
		}
	}
}

// end begins the end of the link. The first call decides how.
func (l *link) end(how ending) {
	for _, lane := range l.beginEnd(how) {
		lane.wake()
	}
}

// beginEnd ends the connections and returns the lanes, which are to be woken
// without the lock: they look at the link while they hold their own.
func (l *link) beginEnd(how ending) []*lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.how != endNone {
		return nil
	}
	l.how = how
	close(l.done)
	conns := []net.Conn{l.client}
	if l.server != nil {
		conns = append(conns, l.server)
	}
	for _, conn := range conns {
		if how == endReset {
			reset(conn)
			continue
		}
		finish(conn)
		conn.SetReadDeadline(time.Now().Add(finishGrace))
	}
	return l.lanes
}

// abandon resets the connection behind the proxy and nothing else.
func (l *link) abandon() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.how == endNone && l.server != nil {
		l.alone = true
		reset(l.server)
	}
}

func (l *link) abandoned() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.alone
}

// ended reports how the link is ending.
func (l *link) ended() ending {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.how
}

// close releases the connections after the lanes have ended.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.how == endReset {
		reset(l.client)
	}
	l.client.Close()
	if l.server != nil {
		l.server.Close()
	}
}

// sleep waits until the time t; false if the link ended first.
func (l *link) sleep(t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.done:
		return false
	}
}

// reset closes a connection with RST.
func reset(conn net.Conn) {
	if c, ok := conn.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	conn.Close()
}

// finish closes the sending half, where there is one.
func finish(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
		return
	}
	conn.Close()
}
