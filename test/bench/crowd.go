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

	"github.com/culvert-k8s/culvert/test/lab"
)

const (
	crowdPort   = 7453
	crowdHealth = "127.0.0.1:7490"
	// crowdAway is how long a relay that is restarted is away.
	crowdAway = 2 * time.Second
	// crowdStorms is how often it is.
	crowdStorms = 3
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
	both := []part{family("relay", relay.Pid()), family("agents", agents.Pid())}
	before, err := memories(ctx, both)
	if err != nil {
		return nil, err
	}
	if _, err := to.WriteString("\n"); err != nil {
		return nil, err
	}
	if _, err := agents.WaitLine(allBack, 2*patience); err != nil {
		return nil, err
	}
	got, err := s.crowdAtRest(ctx, before, both)
	for range crowdStorms {
		if err != nil {
			return nil, err
		}
		got, err = s.storm(ctx, got, agents, &relay, dir)
	}
	return got, err
}

// crowdAtRest is what tunnels cost that nobody uses: relay and agents held before
// there were any.
func (s *scene) crowdAtRest(ctx context.Context, before []float64, both []part) ([]reading, error) {
	now, err := memories(ctx, both)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	used, err := both[0].cpu()
	if err != nil {
		return nil, err
	}
	if err := rest(ctx, settle); err != nil {
		return nil, err
	}
	then, err := both[0].cpu()
	n := float64(s.scale.agents)
	return []reading{
		{"relay with them", "MiB", true, now[0] / mib},
		{"relay, each tunnel", "KiB", true, (now[0] - before[0]) / 1024 / n},
		{"agent, each tunnel", "KiB", true, (now[1] - before[1]) / 1024 / n},
		{"relay with them at rest", "% of a core", true, 100 * (then - used) / time.Since(began).Seconds()},
	}, err
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
	used, err := family("relay", next.Pid()).cpu()
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
