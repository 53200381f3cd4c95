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
	probeEvery = 5 * time.Second
)

// path knows the round-trip time to the peer's end of the session. The kernel
// knows only that to the next proxy. It is measured by a ping when bulk data comes in,
// and the shortest counts: what is longer waited in a queue.
type path struct {
	asked    atomic.Int64 // Unix nanoseconds of the last probe
	waiting  atomic.Bool  // for its answer
	shortest atomic.Int64 // nanoseconds, 0: not known
}

// roundTrip returns what is known, and measures again if that is old. It does not
// wait.
func (p *path) roundTrip(now time.Time, out *outbound) time.Duration {
	last := p.asked.Load()
	if now.UnixNano()-last > int64(probeEvery) && p.asked.CompareAndSwap(last, now.UnixNano()) {
		p.waiting.Store(true)
		out.inject(muxControl(typePing, flagSYN, 0, probeMark))
	}
	return time.Duration(p.shortest.Load())
}

func (p *path) pong(now time.Time) {
	if !p.waiting.CompareAndSwap(true, false) {
		return // nobody asked
	}
	took := max(1, now.UnixNano()-p.asked.Load())
	if s := p.shortest.Load(); s == 0 || took < s {
		p.shortest.Store(took)
	}
}
