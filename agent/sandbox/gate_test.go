package sandbox

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestBackoff(t *testing.T) {
	var b backoff
	for i := range 1000 {
		limit := lastRetry
		if i < 6 {
			limit = min(firstRetry<<i, lastRetry)
		}
		if d := b.next(); d < limit/2 || d > limit {
			t.Fatalf("wait %d is %v, want from %v to %v", i, d, limit/2, limit)
		}
	}
	b.reset()
	if d := b.next(); d > firstRetry {
		t.Errorf("after a reset it is %v", d)
	}
}

func TestGateBoundsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		began := time.Now()
		passed, busy := 0, 0
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 500 {
			all.Go(func() {
				leave, err := g.enter(t.Context())
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					leave()
					passed++
				case errors.Is(err, ErrBusy):
					busy++
				default:
					t.Errorf("unexpected error: %v", err)
				}
			})
		}
		all.Wait()
		// The last turn falls on the deadline, and rounding decides.
		if want := missBurst + int(missWait/time.Second)*missRate; passed < want-1 || passed > want || passed+busy != 500 {
			t.Errorf("%d passed and %d were refused, want %d passed", passed, busy, want)
		}
		if took := time.Since(began); took > missWait {
			t.Errorf("took %v, want at most %v", took, missWait)
		}
	})
}

func TestGateBoundsConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		var leave func()
		for range missSlots {
			var err error
			if leave, err = g.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := g.enter(t.Context()); !errors.Is(err, ErrBusy) {
			t.Errorf("error %v, want busy", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want that of the caller's deadline", err)
		}
		time.AfterFunc(time.Second, leave)
		if _, err := g.enter(t.Context()); err != nil {
			t.Errorf("after another left: %v", err)
		}
	})
}
