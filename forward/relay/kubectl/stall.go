package kubectl

import (
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// fill moves n bytes from the client into the buffer of conn, or nowhere if conn is
// nil or takes no more. It waits while there is no room: the protocol has no other
// way to slow down a client, and what was sent must not be lost.
func (c *carrier) fill(r fillReader, conn *streamConn, n int) error {
	for n > 0 && conn != nil {
		room, open := c.room(conn)
		if !open {
			break
		}
		m, err := r.Read(room[:min(n, len(room))])
		conn.filled(m)
		n -= m
		if err != nil {
			return err
		}
	}
	_, err := r.Discard(n)
	return err
}

// fillReader is a bufio.Reader.
type fillReader interface {
	Read(p []byte) (int, error)
	Discard(n int) (int, error)
}

func (c *carrier) room(conn *streamConn) (room []byte, open bool) {
	room, open = conn.space(c.cfg.StreamBuffer)
	if room == nil && open {
		return c.waitForRoom(conn)
	}
	return room, open
}

// waitForRoom waits until conn has room again, or takes no more.
func (c *carrier) waitForRoom(conn *streamConn) (room []byte, open bool) {
	began := time.Now()
	call(c.cfg.Hooks.Stalled)
	defer func() {
		if c.cfg.Hooks.Unstalled != nil {
			c.cfg.Hooks.Unstalled(time.Since(began))
		}
	}()
	c.held.Store(true)
	defer c.held.Store(false)
	c.in.waiting.Store(true)
	defer c.in.waiting.Store(false)
	tick := time.NewTicker(max(c.cfg.StallTimeout/4, time.Millisecond))
	defer tick.Stop()
	for {
		room, open = conn.space(c.cfg.StreamBuffer)
		if room != nil || !open {
			return room, open
		}
		select {
		case <-c.in.freed:
		case now := <-tick.C:
			c.breakStall(conn, now, now.Sub(began))
		case <-c.ctx.Done():
			return nil, false
		}
	}
}

// breakStall resets a connection that the whole session waits for and whose pod has
// taken nothing for too long. That is conn if its own buffer is full, and else,
// if the session's is, the one that holds most of it.
func (c *carrier) breakStall(conn *streamConn, now time.Time, waited time.Duration) {
	limit := c.cfg.StallTimeout
	if c.open.Load() <= 1 { // nobody else waits, as far as we can see
		limit = c.cfg.BlockedTimeout
	}
	if waited < limit {
		return
	}
	victim := conn
	size, still := conn.pending(now)
	if size < c.cfg.StreamBuffer {
		victim, size = nil, 0
		for _, other := range c.all() {
			if n, s := other.pending(now); n > size && s >= limit {
				victim, size = other, n
			}
		}
	} else if still < limit {
		return
	}
	if victim == nil {
		return
	}
	call(c.cfg.Hooks.StallReset)
	c.cfg.Log.Info("connection reset: its pod takes nothing, and the session waits for it",
		"door", c.door, "stream", victim.lane.id, "buffered", size)
	_ = victim.Reset(&stream.Error{Code: stream.Timeout, Text: "the pod took nothing, and other connections had to wait for it"})
}

// pending returns how much data waits for the pod, and for how long nothing of it
// was taken.
func (c *streamConn) pending(now time.Time) (size int, still time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in.size, now.Sub(c.in.moved)
}

func call(hook func()) {
	if hook != nil {
		hook()
	}
}
