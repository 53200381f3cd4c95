//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/culvert-k8s/culvert/test/bench/load"
	"github.com/culvert-k8s/culvert/test/lab"
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

const (
	crowdPort   = 7453
	crowdHealth = "127.0.0.1:7490"
	// crowdAway is how long a relay that is restarted is away.
	crowdAway = 2 * time.Second
	// burst is the length of the moments in which dials are counted.
	burst = 100 * time.Millisecond
)

var (
	allBack  = regexp.MustCompile(`^all$`)
	someGone = regexp.MustCompile(`^some$`)
	recruits = regexp.MustCompile(`^made$`)
)

// crowd has many agents on one relay, which is then killed and started again.
func crowd(ctx context.Context, s *scene) ([]reading, error) {
	ctx, cancel := context.WithCancel(ctx) // ends what is started here
	defer cancel()
	dir, err := os.MkdirTemp(s.rig.dir, "crowd")
	if err != nil {
		return nil, err
	}
	from, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer from.Close()
	defer to.Close()
	n := s.scale.agents
	agents, err := s.rig.nodes[1].host.StartCommand(ctx, lab.Command{Path: s.rig.bin.crowd, Stdin: from, Args: []string{
		"-agents", strconv.Itoa(n), "-relay", addr(s.rig.relay, crowdPort), "-dir", dir,
		"-relay-ca", filepath.Join(dir, "relay", "ca.crt"),
	}})
	if err != nil {
		return nil, err
	}
	defer agents.Kill()
	if _, err := agents.WaitLine(recruits, patience); err != nil {
		return nil, err
	}
	relay, err := s.crowdRelay(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { relay.Kill() }()
	idle, err := memories(ctx, []part{{"relay", relay.Pid()}})
	if err != nil {
		return nil, err
	}
	if _, err := to.WriteString("\n"); err != nil {
		return nil, err
	}
	if _, err := agents.WaitLine(allBack, 2*patience); err != nil {
		return nil, err
	}
	full, err := memories(ctx, []part{{"relay", relay.Pid()}})
	if err != nil {
		return nil, err
	}
	got := []reading{{"relay with them", "MiB", true, full[0] / mib}, {"relay, each agent", "KiB", true, (full[0] - idle[0]) / 1024 / float64(n)}}
	return s.storm(ctx, got, agents, &relay, dir)
}

// storm restarts the relay and looks at how the agents come back.
func (s *scene) storm(ctx context.Context, got []reading, agents *lab.Process, relay **lab.Process, dir string) ([]reading, error) {
	mark := agents.Mark()
	(*relay).Kill()
	if _, err := agents.WaitLineFrom(mark, someGone, patience); err != nil {
		return nil, err
	}
	if err := rest(ctx, crowdAway); err != nil {
		return nil, err
	}
	tap, err := s.rig.relay.Capture(ctx, lab.CaptureConfig{
		Filter: fmt.Sprintf("tcp dst port %d and tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn", crowdPort), Snaplen: 128,
	})
	if err != nil {
		return nil, err
	}
	began, mark := time.Now(), agents.Mark()
	next, err := s.crowdRelay(ctx, dir)
	if err != nil {
		return nil, err
	}
	*relay = next
	if _, err := agents.WaitLineFrom(mark, allBack, 2*patience); err != nil {
		return nil, err
	}
	back := time.Since(began)
	used, err := part{"relay", next.Pid()}.cpu()
	if err != nil {
		return nil, err
	}
	dials, err := tap.Packets()
	if err != nil {
		return nil, err
	}
	return append(got,
		reading{"all back", "s", true, back.Seconds()},
		reading{"dials, each agent", "", true, float64(len(dials)) / float64(s.scale.agents)},
		reading{"dials within 100 ms, at most", "", true, float64(thickest(dials))},
		reading{"CPU of the relay until then", "s", true, used},
	), nil
}

// thickest is the largest number of packets within one moment.
func thickest(packets []lab.Packet) int {
	most, first := 0, 0
	for i, p := range packets {
		for p.Time.Sub(packets[first].Time) > burst {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// crowdRelay starts a relay for the crowd alone.
func (s *scene) crowdRelay(ctx context.Context, dir string) (*lab.Process, error) {
	relay, err := s.rig.relay.StartCommand(ctx, lab.Command{Path: s.rig.bin.relay, Label: "crowd-relay", Args: []string{
		"serve", "--listen", ":" + strconv.Itoa(crowdPort), "--advertise", addr(s.rig.relay, crowdPort),
		"--state-dir", filepath.Join(dir, "relay"), "--agent-ca", filepath.Join(dir, "ca.pem"),
		"--health-listen", crowdHealth, "--log-level", "warn",
	}})
	if err != nil {
		return nil, err
	}
	if err := ready(ctx, s.rig.relay, relay, crowdHealth); err != nil {
		relay.Kill()
		return nil, err
	}
	return relay, nil
}
