//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/culvert-k8s/culvert/test/bench/load"
)

const (
	// settle is how long programs are left alone before they are looked at.
	settle = 3 * time.Second
	// holdWorkers open idle streams at once.
	holdWorkers = 16
)

// rest waits for a time, or until ctx ends.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// footprint is what the agent is when nobody uses it. It must be the first probe.
func footprint(ctx context.Context, s *scene) ([]reading, error) {
	binary, err := os.Stat(s.rig.bin.agent)
	if err != nil {
		return nil, err
	}
	if err := rest(ctx, settle); err != nil {
		return nil, err
	}
	got := []reading{{"agent binary", "MB", true, float64(binary.Size()) / 1e6}}
	parts, err := s.way.middle(s.to)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		held, err := p.memory()
		if err != nil {
			return nil, err
		}
		got = append(got, reading{p.name + " idle", "MiB", true, held / mib})
	}
	return got, nil
}

// held is how much memory idle streams take in each process. Paths of others get a
// tenth of the streams: what one takes does not depend on how many there are.
func held(ctx context.Context, s *scene) ([]reading, error) {
	f, err := s.rig.forward(ctx, s.way, s.to)
	if err != nil {
		return nil, err
	}
	defer f.Kill()
	if _, err := load.Ping(ctx, f.dial(load.PortEcho), 1, time.Hour); err != nil {
		return nil, err
	}
	want := s.scale.streams
	if s.way.name != wayCulvert {
		want = max(want/10, 100)
	}
	before, err := memories(ctx, f.parts)
	if err != nil {
		return nil, err
	}
	opened, release, why := load.Hold(ctx, f.dial(load.PortEcho), want, holdWorkers)
	defer release()
	if opened == 0 {
		return nil, fmt.Errorf("open idle streams: %w", why)
	}
	after, err := memories(ctx, f.parts)
	if err != nil {
		return nil, err
	}
	got := []reading{{metric: "streams", value: float64(opened)}}
	for i, p := range f.parts {
		got = append(got,
			reading{p.name + " with them", "MiB", true, after[i] / mib},
			reading{p.name + ", each stream", "KiB", true, (after[i] - before[i]) / 1024 / float64(opened)})
	}
	return got, nil
}

// memories is what processes hold once they have settled.
func memories(ctx context.Context, parts []part) ([]float64, error) {
	if err := rest(ctx, settle); err != nil {
		return nil, err
	}
	all := make([]float64, len(parts))
	for i, p := range parts {
		held, err := p.memory()
		if err != nil {
			return nil, err
		}
		all[i] = held
	}
	return all, nil
}
