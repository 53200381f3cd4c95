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

// muster is a crowd of agents and their relay.
type muster struct {
	*scene
	dir    string   // of certificates or tokens, and of the relay
	kube   []string // how the relay asks the API server about tokens; nil: agents have certificates
	agents *lab.Process
	relay  *lab.Process
}

// crowd has many agents on one relay, which is then killed and started again.
func crowd(ctx context.Context, s *scene) ([]reading, error) {
	dir, err := os.MkdirTemp(s.rig.dir, "crowd")
	if err != nil {
		return nil, err
	}
	return (&muster{scene: s, dir: dir}).run(ctx)
}

// tokenCrowd is crowd, with the tokens of nodes of a cluster: the relay has every
// one reviewed by the API server.
func tokenCrowd(ctx context.Context, s *scene) ([]reading, error) {
	if s.rig.cluster == nil {
		return nil, nil
	}
	dir, err := os.MkdirTemp(s.rig.dir, "crowd")
	if err != nil {
		return nil, err
	}
	m := &muster{scene: s, dir: dir}
	if m.kube, err = s.rig.enlist(ctx, dir, s.scale.agents); err != nil {
		return nil, err
	}
	return m.run(ctx)
}

func (m *muster) run(ctx context.Context) ([]reading, error) {
	ctx, cancel := context.WithCancel(ctx) // ends what is started here
	defer cancel()
	from, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer from.Close()
	defer to.Close()
	m.agents, err = m.rig.nodes[1].host.StartCommand(ctx, lab.Command{Path: m.rig.bin.crowd, Stdin: from, Args: []string{
		"-agents", strconv.Itoa(m.scale.agents), "-relay", addr(m.rig.relay, crowdPort), "-dir", m.dir,
		"-relay-ca", filepath.Join(m.dir, "relay", "ca.crt"), "-tokens=" + strconv.FormatBool(m.kube != nil),
	}})
	if err != nil {
		return nil, err
	}
	defer m.agents.Kill()
	if _, err := m.agents.WaitLine(recruits, patience); err != nil {
		return nil, err
	}
	if err := m.startRelay(ctx); err != nil {
		return nil, err
	}
	defer func() { m.relay.Kill() }()
	both := []part{family("relay", m.relay.Pid()), family("agents", m.agents.Pid())}
	before, err := memories(ctx, both)
	if err != nil {
		return nil, err
	}
	if _, err := to.WriteString("\n"); err != nil {
		return nil, err
	}
	if _, err := m.agents.WaitLine(allBack, 2*patience); err != nil {
		return nil, err
	}
	got, err := m.atRest(ctx, before, both)
	for range crowdStorms {
		if err != nil {
			return nil, err
		}
		var more []reading
		more, err = m.storm(ctx)
		got = append(got, more...)
	}
	return got, err
}

// atRest is what tunnels cost that nobody uses: relay and agents held before
// there were any.
func (m *muster) atRest(ctx context.Context, before []float64, both []part) ([]reading, error) {
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
	n := float64(m.scale.agents)
	return []reading{
		{"relay with them", "MiB", true, now[0] / mib},
		{"relay, each tunnel", "KiB", true, (now[0] - before[0]) / 1024 / n},
		{"agent, each tunnel", "KiB", true, (now[1] - before[1]) / 1024 / n},
		{"relay with them at rest", "% of a core", true, 100 * (then - used) / time.Since(began).Seconds()},
	}, err
}

// storm restarts the relay and looks at how the agents come back.
func (m *muster) storm(ctx context.Context) ([]reading, error) {
	mark := m.agents.Mark()
	m.relay.Kill()
	if _, err := m.agents.WaitLineFrom(mark, someGone, patience); err != nil {
		return nil, err
	}
	if err := rest(ctx, crowdAway); err != nil {
		return nil, err
	}
	tap, err := m.rig.relay.Capture(ctx, lab.CaptureConfig{
		Filter: fmt.Sprintf("tcp dst port %d and tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn", crowdPort), Snaplen: 128,
	})
	if err != nil {
		return nil, err
	}
	busy, err := m.asked()
	if err != nil {
		return nil, err
	}
	began, mark := time.Now(), m.agents.Mark()
	if err := m.startRelay(ctx); err != nil {
		return nil, err
	}
	if _, err := m.agents.WaitLineFrom(mark, allBack, 2*patience); err != nil {
		return nil, err
	}
	back := time.Since(began)
	used, err := family("relay", m.relay.Pid()).cpu()
	if err != nil {
		return nil, err
	}
	dials, err := tap.Packets()
	if err != nil {
		return nil, err
	}
	got := []reading{
		{"all back", "s", true, back.Seconds()},
		{"dials, each agent", "", true, float64(len(dials)) / float64(m.scale.agents)},
		{"dials within 100 ms, at most", "", true, float64(thickest(dials))},
		{"CPU of the relay until then", "s", true, used},
	}
	if m.kube != nil {
		now, err := m.asked()
		if err != nil {
			return nil, err
		}
		got = append(got, reading{"CPU of the API server until then", "s", true, now - busy})
	}
	return got, nil
}

// asked is the processor time of who is asked about tokens.
func (m *muster) asked() (float64, error) {
	if m.kube == nil {
		return 0, nil
	}
	return family("apiserver", m.rig.cluster.Control.APIServer.Process().Pid()).cpu()
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

// startRelay starts a relay for the crowd alone.
func (m *muster) startRelay(ctx context.Context) error {
	args := []string{
		"serve", "--listen", ":" + strconv.Itoa(crowdPort), "--advertise", addr(m.rig.relay, crowdPort),
		"--state-dir", filepath.Join(m.dir, "relay"), "--health-listen", crowdHealth, "--log-level", "warn",
	}
	if m.kube == nil {
		args = append(args, "--agent-ca", filepath.Join(m.dir, "ca.pem"))
	}
	relay, err := m.rig.relay.StartCommand(ctx, lab.Command{Path: m.rig.bin.relay, Label: "crowd-relay", Args: append(args, m.kube...)})
	if err != nil {
		return err
	}
	m.relay = relay
	if err := ready(ctx, m.rig.relay, relay, crowdHealth); err != nil {
		relay.Kill()
		return err
	}
	return nil
}
