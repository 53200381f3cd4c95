//go:build linux

package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/culvert-k8s/culvert/test/bench/load"
	"github.com/culvert-k8s/culvert/test/bench/measure"
	"github.com/culvert-k8s/culvert/test/lab"
)

// tally turns what do counts into readings, with the processor time that it takes.
func (s *scene) tally(do func() (load.Tally, error)) ([]reading, error) {
	before, err := spent(s.f.parts)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	t, err := do()
	if err != nil {
		return nil, err
	}
	after, err := spent(s.f.parts)
	if err != nil {
		return nil, err
	}
	busy := (after[machine] - before[machine]) / time.Since(began).Seconds() / float64(runtime.NumCPU())
	got := []reading{
		{metric: "rate", unit: "/s", value: t.PerSecond},
		{"p50", "ms", true, 1e3 * measure.Quantile(t.Seconds, 0.5)},
		{"p99", "ms", true, 1e3 * measure.Quantile(t.Seconds, 0.99)},
	}
	middle := 0.0
	for _, p := range s.f.parts {
		used := 1e6 * (after[p.name] - before[p.name]) / float64(len(t.Seconds))
		if p.name != "client" {
			middle += used
		}
		got = append(got, reading{"CPU " + p.name, "us each", true, used})
	}
	return append(got,
		reading{"CPU between client and pod", "us each", true, middle},
		reading{metric: "processors busy", unit: "%", value: 100 * busy}), nil
}

// keepAlive sends requests on connections that stay.
func keepAlive(conns int) func(context.Context, *scene) ([]reading, error) {
	return func(ctx context.Context, s *scene) ([]reading, error) {
		return s.tally(func() (load.Tally, error) {
			return load.KeepAlive(ctx, s.f.dial(load.PortHTTP), conns, 0, s.span())
		})
	}
}

// fresh sends each request on a connection of its own.
func fresh(workers int) func(context.Context, *scene) ([]reading, error) {
	return func(ctx context.Context, s *scene) ([]reading, error) {
		return s.tally(func() (load.Tally, error) { return load.Fresh(ctx, s.f.dial(load.PortHTTP), workers, 0, s.span()) })
	}
}

// toEnd is fresh, with connections that the pod ends: the client then waits for the
// end to arrive.
func toEnd(workers int) func(context.Context, *scene) ([]reading, error) {
	return func(ctx context.Context, s *scene) ([]reading, error) {
		return s.tally(func() (load.Tally, error) { return load.FreshToEnd(ctx, s.f.dial(load.PortHTTP), workers, 0, s.span()) })
	}
}

func ping(ctx context.Context, s *scene) ([]reading, error) {
	return s.tally(func() (load.Tally, error) { return load.Ping(ctx, s.f.dial(load.PortEcho), 0, s.span()) })
}

// firstByte is how long a new connection takes to its first byte from the pod, in
// round trips of the whole path too.
func firstByte(rtt time.Duration) func(context.Context, *scene) ([]reading, error) {
	return func(ctx context.Context, s *scene) ([]reading, error) {
		t, err := load.Fresh(ctx, s.f.dial(load.PortHTTP), 1, 0, s.span())
		if err != nil {
			return nil, err
		}
		path := rtt
		if s.way.stock {
			path /= 2 // nothing can be put between API server and kubelet
		}
		p50 := measure.Quantile(t.Seconds, 0.5)
		return []reading{{"p50", "ms", true, 1e3 * p50}, {"round trips", "", true, p50 / path.Seconds()}}, nil
	}
}

// start is the time from the start of a command to the first answer of the pod.
func start(ctx context.Context, s *scene) ([]reading, error) {
	began := time.Now()
	f, err := s.rig.forward(ctx, s.way, s.to)
	if err != nil {
		return nil, err
	}
	defer f.Kill()
	forwards := time.Since(began)
	if _, err := load.Fresh(ctx, f.dial(load.PortHTTP), 1, 1, time.Hour); err != nil {
		return nil, err
	}
	return []reading{
		{"first answer", "ms", true, 1e3 * time.Since(began).Seconds()},
		{"forwards", "ms", true, 1e3 * forwards.Seconds()},
	}, nil
}

// packets counts what is on the node's wire for each request.
func packets(ctx context.Context, s *scene) ([]reading, error) {
	count := 200
	if s.warm {
		count = 20
	}
	var got []reading
	for _, kind := range []struct {
		name string
		send func() (load.Tally, error)
	}{
		{"new connection", func() (load.Tally, error) {
			return load.Fresh(ctx, s.f.dial(load.PortHTTP), 1, count, time.Hour)
		}},
		{"keep-alive", func() (load.Tally, error) {
			return load.KeepAlive(ctx, s.f.dial(load.PortHTTP), 1, count, time.Hour)
		}},
	} {
		seen, err := s.wire(ctx, kind.send)
		if err != nil {
			return nil, err
		}
		per := float64(count)
		got = append(got,
			reading{"packets, " + kind.name, "", true, float64(seen.Packets) / per},
			reading{"with payload, " + kind.name, "", true, float64(seen.WithPayload) / per},
			reading{"bytes, " + kind.name, "", true, float64(seen.WireBytes) / per})
	}
	return got, nil
}

// wire counts the packets of the way on the node's wire while do runs.
func (s *scene) wire(ctx context.Context, do func() (load.Tally, error)) (lab.FlowCount, error) {
	host := s.rig.nodes[nodeOf(s.to)].host
	c, err := host.Capture(ctx, lab.CaptureConfig{Filter: fmt.Sprintf("tcp port %d", s.way.wire), Snaplen: 128})
	if err != nil {
		return lab.FlowCount{}, err
	}
	_, failed := do()
	seen, err := c.Packets()
	if failed != nil {
		err = failed
	}
	return lab.CountTCP(seen), err
}
