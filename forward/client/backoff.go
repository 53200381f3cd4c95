package client

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// firstPause follows the first attempt, which follows a loss at once.
	firstPause = 50 * time.Millisecond

	// kickFloor is the shortest pause a waiting connection can bring about:
	// a busy local program must not turn a relay's restart into a flood.
	kickFloor = 250 * time.Millisecond
)

// backoff gives the pauses between attempts: 0, then from 50 ms on twice as
// long each time up to max, each drawn from its upper half so that the clients
// of a lost relay do not return in step.
type backoff struct {
	max  time.Duration
	last time.Duration // before the draw, -1 after the immediate attempt
}

func (b *backoff) next() time.Duration {
	switch b.last {
	case 0:
		b.last = -1
		return 0
	case -1:
		b.last = firstPause
	default:
		b.last = min(2*b.last, b.max)
	}
	b.last = min(b.last, b.max)
	return b.last/2 + rand.N(b.last/2+1) //nolint:gosec // nobody gains from guessing it
}

func (b *backoff) reset() { b.last = 0 }

// wait pauses for d or until ctx ends. Somebody who waits for a session cuts
// it short, but not below kickFloor.
func (c *Client) wait(ctx context.Context, d time.Duration) {
	floor := min(d, kickFloor)
	if !sleep(ctx, floor) || d == floor {
		return
	}
	t := time.NewTimer(d - floor)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.kick:
	case <-ctx.Done():
	}
}
