package tunnel

import (
	"sync/atomic"
	"time"
)

const (
	// probeMark tells the ping that measures the path from the one that asks for
	// life.
	probeMark = 0x70617468
	// probeEvery is how often the path is measured while bulk comes in.
	probeEvery = time.Second
	// pathMemory is how long a measurement counts, at least; at most twice as long.
	pathMemory = 5 * time.Second
)

// path knows the round-trip time to the peer's end of the session. The kernel
// knows only that to the next proxy. It is measured by a ping when bulk data comes in,
// and the shortest of the last seconds counts: what is longer waited in a queue, and
// what is older may have been another path, as that of a laptop that moved.
type path struct {
	asked   atomic.Int64 // Unix nanoseconds of the last probe
	waiting atomic.Bool  // for its answer

	// Written by the session's receiver alone. In nanoseconds, 0: not known.
	shortest, before atomic.Int64 // of this period, and of the one before
	since            time.Time    // when this period began

	window atomic.Int64 // to which a stream's has grown last
}

// roundTrip returns what is known, 0 if nothing, and measures again if that is old. It
// does not wait.
func (p *path) roundTrip(now time.Time, out *outbound) time.Duration {
	last := p.asked.Load()
	if now.UnixNano()-last > int64(probeEvery) && p.asked.CompareAndSwap(last, now.UnixNano()) {
		p.waiting.Store(true)
		out.inject(muxControl(typePing, flagSYN, 0, probeMark))
	}
	took, before := p.shortest.Load(), p.before.Load()
	if took == 0 || before != 0 && before < took {
		took = before
	}
	return time.Duration(took)
}

// pong notes the answer to a probe.
func (p *path) pong(now time.Time) {
	if !p.waiting.CompareAndSwap(true, false) {
		return // nobody asked
	}
	took := max(1, now.UnixNano()-p.asked.Load())
	switch age := now.Sub(p.since); {
	case age > 2*pathMemory:
		p.before.Store(0)
		p.shortest.Store(took)
		p.since = now
	case age > pathMemory:
		p.before.Store(p.shortest.Load())
		p.shortest.Store(took)
		p.since = now
	case took < p.shortest.Load():
		p.shortest.Store(took)
	}
}
