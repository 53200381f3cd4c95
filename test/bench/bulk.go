//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-k8s/culvert/test/bench/load"
)

// bulk moves as much as fits into the span of a measurement, going by the speed
// of the time before, and counts the processor time that it takes.
func bulk(streams int, up bool) func(context.Context, *scene) ([]reading, error) {
	return func(ctx context.Context, s *scene) ([]reading, error) {
		dial := s.f.dial(load.PortTransfer)
		if s.warm {
			speed, err := load.Transfer(ctx, dial, streams, 8*mib, up)
			if err != nil {
				return nil, err
			}
			s.f.pace = speed
		}
		t, err := paced(ctx, s, dial, streams, up)
		if err != nil {
			return nil, err
		}
		got := []reading{{metric: "speed", unit: "MB/s", value: t.speed / 1e6}}
		middle := 0.0
		for _, p := range s.f.parts {
			used := (t.after[p.name] - t.before[p.name]) / (float64(t.n) / gib)
			if p.name != "client" {
				middle += used
			}
			got = append(got, reading{"CPU " + p.name, "s/GiB", true, used})
		}
		return append(got, reading{"CPU between client and pod", "s/GiB", true, middle}), nil
	}
}

// transfer is one transfer, and the processor time of each part before and after it.
type transfer struct {
	n             int64
	speed         float64 // bytes a second
	before, after map[string]float64
}

// paced moves as much as takes the span of a measurement. What took less than half of
// that was mostly start, and is done again.
func paced(ctx context.Context, s *scene, dial load.Dialer, streams int, up bool) (t transfer, err error) {
	for range 4 {
		t.n = min(max(int64(s.f.pace*s.span().Seconds()), 4*mib), 8*gib)
		if t.before, err = spent(s.f.parts); err != nil {
			return t, err
		}
		if t.speed, err = load.Transfer(ctx, dial, streams, t.n, up); err != nil {
			return t, err
		}
		if t.after, err = spent(s.f.parts); err != nil {
			return t, err
		}
		s.f.pace = t.speed
		if float64(t.n)/t.speed > s.span().Seconds()/2 {
			break
		}
	}
	return t, nil
}

// holding is bulk, and what is held in memory right after it.
func holding(up bool) func(context.Context, *scene) ([]reading, error) {
	move := bulk(1, up)
	return func(ctx context.Context, s *scene) ([]reading, error) {
		got, err := move(ctx, s)
		if err != nil {
			return nil, err
		}
		got = got[:1] // processors mostly wait here
		for _, p := range s.f.parts {
			held, err := p.memory()
			if err != nil {
				return nil, err
			}
			got = append(got, reading{"memory " + p.name, "MiB", true, held / mib})
		}
		return got, nil
	}
}

// besideTimeout is how long a busy stream may at least take beside a stalled one
// before it counts as dead; it gets six times what it needs alone.
const besideTimeout = 3 * time.Second

// beside is how much of its speed a busy stream keeps beside a stalled one: 100 is
// all of it, 0 that it does not move at all. Each time has a program of its own,
// since some of them are of no use afterwards.
func beside(ctx context.Context, s *scene) ([]reading, error) {
	f, err := s.rig.forward(ctx, s.way, s.to)
	if err != nil {
		return nil, err
	}
	defer f.Kill()
	dial := f.dial(load.PortTransfer)
	speed, err := load.Transfer(ctx, dial, 1, 64*mib, false)
	if err != nil {
		return nil, err
	}
	n := max(int64(speed*s.span().Seconds()), 16*mib)
	alone, err := load.Transfer(ctx, dial, 1, n, false)
	if err != nil {
		return nil, err
	}
	release, err := load.Stall(ctx, dial)
	if err != nil {
		return nil, err
	}
	defer release()
	select {
	case <-time.After(300 * time.Millisecond): // what can be under way is
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	bounded, cancel := context.WithTimeout(ctx, max(besideTimeout, 6*s.span()))
	defer cancel()
	busy, err := load.Transfer(bounded, dial, 1, n, false)
	if err != nil && !errors.Is(bounded.Err(), context.DeadlineExceeded) {
		return nil, fmt.Errorf("beside a stalled stream: %w", err)
	}
	if err != nil {
		busy = 0
	}
	return []reading{{metric: "speed kept", unit: "%", value: 100 * busy / alone}}, nil
}
