package connect

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff gives the pauses between attempts at a relay: none before the first,
// then from First on twice as long each time up to Max. First and Max must be
// set.
type Backoff struct {
	First, Max time.Duration

	last  time.Duration // before the draw
	begun bool
}

// Next returns the next pause. It is drawn from its upper half, so that the
// peers of a lost relay do not come back in step.
func (b *Backoff) Next() time.Duration {
	if !b.begun {
		b.begun = true
		return 0
	}
	b.last = min(max(2*b.last, b.First), b.Max)
	return UpperHalf(b.last)
}

// Reset makes the next pause the first again.
func (b *Backoff) Reset() { b.begun, b.last = false, 0 }

// UpperHalf returns a random time between half of d and d.
func UpperHalf(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1) //nolint:gosec // no secret
}

// Sleep waits for d and tells whether ctx still lives.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
