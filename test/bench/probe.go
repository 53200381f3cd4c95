//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/culvert-k8s/culvert/test/bench/measure"
)

// reading is one thing that a probe saw.
type reading struct {
	metric, unit string
	less         bool // is better
	value        float64
}

// scene is what a probe looks at.
type scene struct {
	rig   *rig
	way   *way
	to    route
	f     *forwarding // nil for a probe that wants none
	warm  bool        // this one does not count
	scale scale
}

// scale is how much of everything there is.
type scale struct {
	span    time.Duration // of one measurement
	streams int           // idle ones, in all
	agents  int
}

// probe is a case: what is done on every way, in turn, some rounds.
type probe struct {
	group string // by which it is chosen
	name  string
	to    route
	air   weather
	only  []string // ways; nil: all
	alone bool     // it wants no forwarding that is kept
	most  int      // rounds; 0: as many as are asked for
	run   func(context.Context, *scene) ([]reading, error)
}

// aftermath is how long the stock path is still at work when a measurement is over:
// containerd lets a connection go a second after its end. It must not be counted as
// work of the way that comes next.
const aftermath = 1500 * time.Millisecond

// tryTimeout bounds one measurement.
const tryTimeout = 2 * time.Minute

// bench runs probes one after the other.
type bench struct {
	rig      *rig
	ways     []*way
	rounds   int
	scale    scale
	results  *measure.Results
	say      func(format string, args ...any)
	memory   []byte        // of the gauge
	profiles *profiles     // nil: none
	patience time.Duration // how long a measurement waits for a machine that is idle
}

// checks is how often a case may fall behind before that is no chance any more.
const checks = 3

// check is the guard against regressions: it measures what was bad again, since on
// a busy machine anything is bad once, and returns what stayed so.
func (b *bench) check(ctx context.Context, chosen []*probe) error {
	why := error(nil)
	for range checks {
		for _, p := range chosen {
			b.results.Forget(p.name)
			if err := b.run(ctx, p); err != nil {
				return err
			}
		}
		if chosen, why = guard(b.results, chosen); why == nil {
			return nil
		}
		b.say("behind: %v", why)
	}
	return fmt.Errorf("culvert has fallen behind, %d times in a row:\n%w", checks, why)
}

func (b *bench) run(ctx context.Context, p *probe) error {
	b.say("%6.0f s  %s", time.Since(b.results.Began).Seconds(), p.name)
	var ways []*way
	for _, w := range b.ways {
		if p.only == nil || slices.Contains(p.only, w.name) {
			ways = append(ways, w)
		}
	}
	if len(ways) == 0 {
		return nil
	}
	b.rig.set(p.air)
	defer b.rig.set(weather{})
	kept := make([]*forwarding, len(ways))
	defer func() {
		for _, f := range kept {
			if f != nil {
				f.Kill()
			}
		}
	}()
	rounds := b.rounds
	if p.most > 0 {
		rounds = min(rounds, p.most)
	}
	for round := range rounds {
		for i, w := range ways {
			if !calm(ctx, b.patience) {
				b.results.Restless++
			}
			b.results.Gauge = append(b.results.Gauge, gauge(b.memory))
			s := &scene{rig: b.rig, way: w, to: p.to, scale: b.scale}
			if err := b.try(ctx, p, s, &kept[i], round); err != nil {
				return err
			}
			if w.stock && rest(ctx, aftermath) != nil {
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// try makes one measurement. A failure is a result too; the error is that of a run
// that has no sense any more.
func (b *bench) try(ctx context.Context, p *probe, s *scene, kept **forwarding, round int) error {
	bounded, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	got, err := b.measure(bounded, p, s, kept)
	for _, r := range got {
		if math.IsNaN(r.value) || math.IsInf(r.value, 0) {
			err = errors.Join(err, fmt.Errorf("%s: nothing was measured", r.metric))
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		b.say("  %d  %-22s %v", round+1, s.way.name, err)
		if *kept != nil {
			(*kept).Kill()
			*kept = nil
		}
		b.failed(p, s.way, err)
		return nil
	}
	for _, r := range got {
		series := b.results.Of(p.name, r.metric, s.way.name, r.unit, r.less)
		series.Samples = append(series.Samples, r.value)
	}
	if len(got) > 0 {
		b.say("  %d  %-22s %s %.4g %s", round+1, s.way.name, got[0].metric, got[0].value, got[0].unit)
	}
	return nil
}

func (b *bench) measure(ctx context.Context, p *probe, s *scene, kept **forwarding) ([]reading, error) {
	do := func() ([]reading, error) {
		return b.profiles.around(ctx, s, p.name, func() ([]reading, error) { return p.run(ctx, s) })
	}
	if p.alone {
		return do()
	}
	if *kept == nil || !(*kept).alive() {
		// It outlives this measurement, but not the run.
		f, err := b.rig.forward(context.WithoutCancel(ctx), s.way, s.to)
		if err != nil {
			return nil, err
		}
		*kept = f
		s.f, s.warm = f, true
		if _, err := p.run(ctx, s); err != nil {
			return nil, fmt.Errorf("warm up: %w", err)
		}
	}
	s.f, s.warm = *kept, false
	return do()
}

// failureMetric is where failures are counted.
const failureMetric = "failures"

func (b *bench) failed(p *probe, w *way, err error) {
	series := b.results.Of(p.name, failureMetric, w.name, "", true)
	series.Failures++
	series.Failure = err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		series.Failure = "took too long: " + series.Failure
	}
}

// span is how long a measurement takes.
func (s *scene) span() time.Duration {
	if s.warm {
		return s.scale.span / 4
	}
	return s.scale.span
}
