package traffic

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Disturbance is a time during which connections on some flows may fail, since a
// fault is in force there.
type Disturbance struct {
	load  *Load
	flows []*flow

	// Under the lock of the load.
	began   time.Time
	first   time.Time // when the first connection had failed
	totals  Totals
	broken  int64 // of those cut, such as had answered
	kinds   map[Kind]int
	touched int
}

// Disturb begins a disturbance of the named flows. The caller ends it. No flow at
// all is a fault that nobody may notice.
func (l *Load) Disturb(flows ...string) *Disturbance {
	d := &Disturbance{load: l, began: time.Now(), kinds: map[Kind]int{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range flows {
		f := l.find(name)
		f.faults = append(f.faults, d)
		d.flows = append(d.flows, f)
		for c := range f.live {
			c.excuse(d)
		}
	}
	return d
}

// excuse is called under the lock of the load.
func (c *call) excuse(d *Disturbance) {
	c.excused = true
	c.blame = d
	d.touched++
}

// count is called under the lock of the load.
func (d *Disturbance) count(c *call, result outcome) {
	if result == clean {
		d.totals.Clean++
		return
	}
	if c.near.aborted && !aborts(c.near.steps) {
		return // a probe was given up
	}
	if d.first.IsZero() {
		d.first = time.Now()
	}
	d.kinds[c.kind]++
	if result == refused {
		d.totals.Refused++
		return
	}
	d.totals.Cut++
	if c.near.got > 0 {
		d.broken++
	}
}

// End ends the disturbance: connections that begin from now on may not fail.
func (d *Disturbance) End() {
	d.load.mu.Lock()
	defer d.load.mu.Unlock()
	for _, f := range d.flows {
		for i, other := range f.faults {
			if other == d {
				f.faults = append(f.faults[:i:i], f.faults[i+1:]...)
				break
			}
		}
	}
}

// Noticed returns how long after its beginning the first connection failed, and
// false if none has.
func (d *Disturbance) Noticed() (time.Duration, bool) {
	d.load.mu.Lock()
	defer d.load.mu.Unlock()
	return d.first.Sub(d.began), !d.first.IsZero()
}

// Broken counts the connections that were broken off after the user had got something
// from the pod. The others of Totals' Cut may have been refused: what a user sends before
// the answer gets to the pod all the same.
func (d *Disturbance) Broken() int64 {
	d.load.mu.Lock()
	defer d.load.mu.Unlock()
	return d.broken
}

// Totals counts the connections that lived while it lasted and have ended.
func (d *Disturbance) Totals() Totals {
	d.load.mu.Lock()
	defer d.load.mu.Unlock()
	return d.totals
}

// Settle waits until all connections that were begun before now are over, but for
// those that are idle on purpose.
func (l *Load) Settle(ctx context.Context) error {
	now := time.Now()
	return l.await(ctx, func(c *call) bool { return c.began.Before(now) && c.kind != Idle })
}

// Quiet stops new connections, has idle ones finish, and waits until all are over.
// The caller calls Resume. Quiet once more only waits.
func (l *Load) Quiet(ctx context.Context) error {
	l.mu.Lock()
	if !l.isQuiet {
		l.isQuiet, l.loud = true, make(chan struct{})
		close(l.quiet)
	}
	l.mu.Unlock()
	return l.await(ctx, func(*call) bool { return true })
}

// await waits until none is left of the connections that which chooses.
func (l *Load) await(ctx context.Context, which func(*call) bool) error {
	for {
		changed, left := l.left(which)
		if len(left) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d connections hang: %s", len(left), strings.Join(left[:min(len(left), 5)], "; "))
		}
	}
}

func (l *Load) left(which func(*call) bool) (changed chan struct{}, left []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.flows {
		for c := range f.live {
			if which(c) {
				left = append(left, c.String())
			}
		}
	}
	return l.changed, left
}

// Resume goes on after Quiet.
func (l *Load) Resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isQuiet {
		l.isQuiet, l.quiet = false, make(chan struct{})
		close(l.loud)
	}
}

// Probe makes one small connection on a flow and tells whether it went well. It
// is given up, with a reset, when ctx ends.
func (l *Load) Probe(ctx context.Context, name string) error {
	f := l.find(name)
	p := newPlan(Greeting, rand.New(rand.NewPCG(rand.Uint64(), 0)), 300)
	c := l.call(ctx, f, p)
	if c.near.end == eof && c.near.got == p.far[0].n {
		return nil
	}
	return fmt.Errorf("probe of %s: %s", name, c.near)
}
