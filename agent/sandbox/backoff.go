package sandbox

import (
	"math/rand/v2"
	"time"
)

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// backoff says how long to wait before trying again. Its zero value is ready.
type backoff struct{ failures int }

// next doubles from failure to failure up to a cap. Half of it is random, so that
// the agents of many nodes do not try in step.
func (b *backoff) next() time.Duration {
	d := lastRetry
	if b.failures < 16 { // beyond, the shift means nothing any more
		d = min(firstRetry<<b.failures, lastRetry)
	}
	b.failures++
	return d/2 + rand.N(d/2+1) //nolint:gosec // no secret
}

func (b *backoff) reset() { b.failures = 0 }
