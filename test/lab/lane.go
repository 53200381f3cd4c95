//go:build linux

package lab

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	// laneChunk is the most that is read at once.
	laneChunk = 64 << 10
	// laneBurst is how much time a limited rate can make up for, since timers
	// fire late.
	laneBurst = 10 * time.Millisecond
)

// parcel is what travels in a lane: bytes, or the end of the stream.
type parcel struct {
	due  time.Time
	data []byte
	end  ending // endNone: data
}

// lane is one direction of a link. A reader and a writer with a queue between
// them keep the throughput up however long the delay is.
type lane struct {
	link     *link
	up       bool
	src, dst net.Conn

	mu     sync.Mutex
	moved  sync.Cond // something was put into or taken from the queue, or the link ended
	queue  []parcel
	queued int             // bytes
	passed int64           // bytes since the fault changed
	under  <-chan struct{} // of the fault that passed is counted under
}

func newLane(l *link, up bool, src, dst net.Conn) *lane {
	d := &lane{link: l, up: up, src: src, dst: dst}
	d.moved.L = &d.mu
	return d
}

func (d *lane) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moved.Broadcast()
}

// current is the proxy's fault for this direction.
func (d *lane) current() (Way, <-chan struct{}) {
	fault, changed := d.link.proxy.current()
	if d.up {
		return fault.Up, changed
	}
	return fault.Down, changed
}

// flowing waits while the direction is stalled; false if the link has ended.
func (d *lane) flowing() (Way, bool) {
	for {
		way, changed := d.current()
		select {
		case <-d.link.done:
			return way, false
		default:
		}
		if !way.Stall {
			return way, true
		}
		select {
		case <-changed:
		case <-d.link.done:
			return way, false
		}
	}
}

// read fills the queue until the stream or the link ends.
func (d *lane) read() {
	buf := make([]byte, laneChunk)
	var free time.Time // when the rate lets the next byte go
	for {
		way, ok := d.flowing()
		if !ok {
			break
		}
		n, err := d.src.Read(buf[:chunkFor(way.Rate)])
		way, _ = d.current() // it may have changed while the read waited
		now := time.Now()
		free = later(free, now.Add(-laneBurst))
		if way.Rate > 0 {
			free = free.Add(time.Duration(n) * time.Second / time.Duration(way.Rate))
		}
		next := parcel{due: d.burst(way, later(free, now).Add(way.Delay)), data: bytes.Clone(buf[:n])}
		if way.Corrupt && n > 0 {
			next.data[rand.IntN(n)] ^= 1 << rand.IntN(8)
		}
		if n > 0 && !way.Blackhole && !d.push(next) {
			break
		}
		if err != nil && d.link.abandoned() {
			if d.up { // the side that was left alone has given up
				d.link.end(endReset)
			}
			return
		}
		if err != nil {
			next.data, next.end = nil, endReset
			if errors.Is(err, io.EOF) {
				next.end = endFinish
			}
			d.push(next)
			return
		}
		if !d.link.sleep(free) {
			break
		}
	}
	if d.link.ended() == endFinish {
		io.Copy(io.Discard, d.src)
	}
}

// burst is when a parcel that is due at that time is let go.
func (d *lane) burst(way Way, due time.Time) time.Time {
	if way.Burst <= 0 {
		return due
	}
	waves := due.Sub(d.link.began)/way.Burst + 1
	return d.link.began.Add(waves * way.Burst)
}

// allowed is how much of n bytes may pass before the link is cut.
func (d *lane) allowed(n int) int {
	way, changed := d.current()
	if changed != d.under {
		d.under, d.passed = changed, 0
	}
	if way.CutAfter <= 0 {
		return n
	}
	return int(min(int64(n), way.CutAfter-d.passed))
}

// chunkFor keeps what is read at once to about a hundredth of a second.
func chunkFor(rate int64) int {
	if rate <= 0 {
		return laneChunk
	}
	return int(min(max(rate/100, 1), laneChunk))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// push waits for room and adds a parcel; false if the link has ended.
func (d *lane) push(p parcel) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.queued > 0 && d.queued+len(p.data) > d.link.proxy.cfg.Queue && d.link.ended() == endNone {
		d.moved.Wait()
	}
	if n := len(d.queue); n > 0 {
		p.due = later(p.due, d.queue[n-1].due) // a shorter delay must not overtake
	}
	d.queue = append(d.queue, p)
	d.queued += len(p.data)
	d.moved.Broadcast()
	return d.link.ended() == endNone
}

// pop waits for the next parcel; false if the link has ended.
func (d *lane) pop() (parcel, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.queue) == 0 && d.link.ended() == endNone {
		d.moved.Wait()
	}
	if d.link.ended() != endNone {
		return parcel{}, false
	}
	p := d.queue[0]
	d.queue = d.queue[1:]
	return p, true
}

// delivered makes room in the queue. It is called after the write, so that a
// receiver that does not read is felt by the sender.
func (d *lane) delivered(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queued -= n
	d.moved.Broadcast()
}

// write empties the queue in time until the stream or the link ends.
func (d *lane) write() {
	for {
		p, ok := d.pop()
		if !ok || !d.link.sleep(p.due) {
			return
		}
		way, ok := d.flowing()
		switch {
		case !ok:
			return
		case way.Blackhole && p.end != endNone:
			<-d.link.done // the peer never learns of the end
			return
		case way.Blackhole:
		case p.end == endFinish:
			finish(d.dst)
			return
		case p.end == endReset:
			d.link.end(endReset)
			return
		default:
			allowed := d.allowed(len(p.data))
			n, err := d.dst.Write(p.data[:allowed])
			d.passed += int64(n)
			d.link.proxy.count(d.up, n)
			if err != nil && d.link.abandoned() {
				break // who dialled is not told
			}
			if err != nil || allowed < len(p.data) {
				d.link.end(endReset)
				return
			}
		}
		d.delivered(len(p.data))
	}
}
