package sandbox

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// What lookups of unknown pods may cost: a peer that asks for pods that do not
// exist must not keep the runtime busy.
const (
	missRate  = 20 // a second
	missBurst = 40
	missSlots = 4               // at the same time
	missWait  = 2 * time.Second // for a turn, and again for the answer
)

// gate lets a bounded rate of lookups through to the runtime.
type gate struct {
	limiter *rate.Limiter
	slots   chan struct{}
}

func newGate() *gate {
	return &gate{limiter: rate.NewLimiter(missRate, missBurst), slots: make(chan struct{}, missSlots)}
}

// enter waits for a turn; the caller calls leave when it is done. Errors: ErrBusy
// if there is no turn soon, or the context's error.
func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	soon, cancel := context.WithTimeout(ctx, missWait)
	defer cancel()
	if err := g.limiter.Wait(soon); err != nil {
		return nil, whyNot(ctx)
	}
	select {
	case g.slots <- struct{}{}:
		return func() { <-g.slots }, nil
	case <-soon.Done():
		return nil, whyNot(ctx)
	}
}

// whyNot tells a caller that gave up from one that was turned away.
func whyNot(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return ErrBusy
}
