//go:build linux

package faults

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

const (
	lost     = `^warning: .*; trying again$`
	longTime = 3 * time.Second // below what makes a silent peer a dead one
)

// TestFaults breaks one thing after the other on one rig.
func TestFaults(t *testing.T) {
	if os.Getenv("CULVERT_TEST_FAULTS") != "required" {
		t.Skip("takes minutes: make faults runs it")
	}
	lab.RequireRoot(t)
	report := newReport(t)
	t.Cleanup(func() { // before the report is written
		if len(report.sections) == len(groups()) { // and not some of them only
			report.sum(figuresFaults)
		}
	})
	for _, g := range groups() {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel() // they mostly wait
			cfg, faults := g.make(t)
			r := newRig(t, cfg)
			for _, f := range faults {
				t.Run(f.where+", "+f.what, func(t *testing.T) {
					report.add(t, g.name, f.try(t, r))
				})
				if t.Failed() {
					return // what comes next would be told of what is left of this
				}
			}
		})
	}
}

// group is what is tried on one rig.
type group struct {
	name string
	make func(t *testing.T) (rigConfig, []fault)
}

func groups() []group {
	usual := func(faults []fault) func(*testing.T) (rigConfig, []fault) {
		return func(*testing.T) (rigConfig, []fault) { return rigConfig{}, faults }
	}
	return []group{
		{"Between client and relay", usual(carriers(near, onlyNear))},
		{"Between relay and agent", usual(carriers("node1", onlyNode1))},
		{"Cables", usual(cables())},
		{"Processes", usual(processes())},
		{"Descriptors and pods", usual(append(descriptors(), gone()...))},
		{"Hostile pods", usual(hostilePods())},
		{"Containerd", func(*testing.T) (rigConfig, []fault) {
			c := &runtime{}
			return rigConfig{wrap: c.wrap, prepare: c.take}, c.faults()
		}},
		{"Clocks", usual(clocks())},
		{"Certificates", func(*testing.T) (rigConfig, []fault) {
			c := &certificates{}
			return rigConfig{wrap: c.wrap, prepare: c.take}, c.faults()
		}},
		{"Names", func(*testing.T) (rigConfig, []fault) {
			n := &names{}
			return rigConfig{wrap: n.wrap, prepare: n.take}, n.faults()
		}},
		{"Two relays", func(*testing.T) (rigConfig, []fault) {
			w := &twoRelays{}
			return rigConfig{wrap: w.wrap, prepare: w.take}, w.faults()
		}},
		{"The agent split in two", func(*testing.T) (rigConfig, []fault) { return rigConfig{split: true}, split() }},
		{"Disk", func(t *testing.T) (rigConfig, []fault) {
			d := newLogDisk(t)
			return rigConfig{wrap: d.wrap}, []fault{d.full()}
		}},
	}
}

// carriers are what can happen to a connection between two of the programs, the
// one that has the proxy link.
func carriers(link string, hits place) []fault {
	where := "agent's carrier"
	if link == near {
		where = "client's carrier"
	}
	var all []fault
	set := func(way lab.Fault) func(*testing.T, *rig) {
		return func(_ *testing.T, r *rig) { r.links[link].Set(way) }
	}
	heal := set(lab.Fault{})
	add := func(what string, hits place, lasts time.Duration, begin, end func(*testing.T, *rig)) {
		all = append(all, fault{where: where, what: what, hits: hits, lasts: lasts, begin: begin, end: end})
	}
	both := lab.BothWays
	add("reset", hits, 0, func(_ *testing.T, r *rig) { r.links[link].CutReset() }, nil)
	add("ended with FIN", hits, 0, func(_ *testing.T, r *rig) { r.links[link].CutFinish() }, nil)
	add("cut within a frame, up", hits, 0, set(lab.Fault{Up: lab.Way{CutAfter: 10_007}}), heal)
	add("cut within a frame, down", hits, 0, set(lab.Fault{Down: lab.Way{CutAfter: 10_007}}), heal)
	add("corrupted, up", hits, 0, set(lab.Fault{Up: lab.Way{Corrupt: true}}), heal)
	add("corrupted, down", hits, 0, set(lab.Fault{Down: lab.Way{Corrupt: true}}), heal)
	add("stalled for 3 s", nil, longTime, set(both(lab.Way{Stall: true})), heal)
	add("stalled", hits, 0, set(both(lab.Way{Stall: true})), heal)
	add("blackholed", hits, 0, set(both(lab.Way{Blackhole: true})), heal)
	add("blackholed, up only", hits, 0, set(lab.Fault{Up: lab.Way{Blackhole: true}}), heal)
	add("blackholed, down only", hits, 0, set(lab.Fault{Down: lab.Way{Blackhole: true}}), heal)
	add("slow, 64 KiB/s", nil, longTime, set(both(lab.Way{Rate: 64 << 10})), heal)
	add("delayed by 150 ms", nil, longTime, set(both(lab.Way{Delay: 150 * time.Millisecond})), heal)
	add("in bursts of 700 ms", nil, longTime, set(both(lab.Way{Burst: 700 * time.Millisecond})), heal)
	add("half open", hits, 0, func(_ *testing.T, r *rig) { r.links[link].Abandon() }, nil)
	return all
}

// cables are pulled: packets are lost and nobody is told.
func cables() []fault {
	pull := func(host string) (out, in func(*testing.T, *rig)) {
		return func(t *testing.T, r *rig) {
				if err := r.Network.Host(host).Unplug(t.Context()); err != nil {
					t.Fatal(err)
				}
			}, func(t *testing.T, r *rig) {
				if err := r.Network.Host(host).Plug(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
	}
	node, back := pull("node1")
	relay, relayBack := pull("relay")
	return []fault{
		{where: "node's cable", what: "out for 2 s", begin: node, end: back, lasts: 2 * time.Second},
		{where: "node's cable", what: "out", hits: onlyNode1, begin: node, end: back},
		{where: "relay's cable", what: "out", hits: everybody, begin: relay, end: relayBack},
	}
}

// processes are killed and stopped.
func processes() []fault {
	signal := func(of func(*rig) *lab.Process, sig syscall.Signal) func(*testing.T, *rig) {
		return func(t *testing.T, r *rig) {
			if err := of(r).Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	relay := func(r *rig) *lab.Process { return r.Relay.Process }
	agent := func(r *rig) *lab.Process { return r.Agents["node1"].Process }
	client := func(r *rig) *lab.Process { return r.users[near].forwards["node1"].Process }
	startRelay := func(t *testing.T, r *rig) { must(t, r.Relay.Start(t.Context())) }
	startAgent := func(t *testing.T, r *rig) { must(t, r.Agents["node1"].Start(t.Context())) }
	startClient := func(t *testing.T, r *rig) { must(t, r.users[near].forwards["node1"].start()) }
	kill := func(of func(*rig) *lab.Process) func(*testing.T, *rig) {
		return func(_ *testing.T, r *rig) { of(r).Kill() }
	}
	stop := func(of func(*rig) *lab.Process) func(*testing.T, *rig) {
		return func(t *testing.T, r *rig) {
			if err := of(r).Stop(patience); err != nil {
				t.Error(err)
			}
		}
	}
	return []fault{
		{where: "relay", what: "kill -9", hits: everybody, begin: kill(relay), end: startRelay, says: lost},
		{where: "agent", what: "kill -9", hits: onlyNode1, begin: kill(agent), end: startAgent},
		{where: "client", what: "kill -9", hits: nearOnNode1, begin: kill(client), end: startClient},
		{where: "agent", what: "SIGTERM", hits: onlyNode1, begin: stop(agent), end: startAgent},
		{where: "client", what: "SIGTERM", hits: nearOnNode1, begin: stop(client), end: startClient},
		{where: "relay", what: "stopped for 3 s", begin: signal(relay, syscall.SIGSTOP), end: signal(relay, syscall.SIGCONT), lasts: longTime},
		{where: "agent", what: "stopped for 3 s", begin: signal(agent, syscall.SIGSTOP), end: signal(agent, syscall.SIGCONT), lasts: longTime},
		{where: "client", what: "stopped for 3 s", begin: signal(client, syscall.SIGSTOP), end: signal(client, syscall.SIGCONT), lasts: longTime},
		{where: "relay", what: "stopped", hits: everybody, begin: signal(relay, syscall.SIGSTOP), end: signal(relay, syscall.SIGCONT)},
		{where: "agent", what: "stopped", hits: onlyNode1, begin: signal(agent, syscall.SIGSTOP), end: signal(agent, syscall.SIGCONT)},
		{
			where: "client", what: "stopped for 20 s", hits: nearOnNode1, lasts: 20 * time.Second,
			begin: signal(client, syscall.SIGSTOP), end: signal(client, syscall.SIGCONT),
		},
	}
}

// split are the two halves of an agent. Streams outlive the broker, which made their
// sockets and handed them over.
func split() []fault {
	of := func(r *rig) *lab.Broker { return r.Agents["node1"].Broker }
	signal := func(sig syscall.Signal) func(*testing.T, *rig) {
		return func(t *testing.T, r *rig) { must(t, of(r).Process.Signal(sig)) }
	}
	return []fault{
		{
			where: "broker", what: "kill -9", hits: onlyNode1, gentle: true, lasts: longTime,
			begin: func(_ *testing.T, r *rig) { of(r).Process.Kill() },
			end:   func(t *testing.T, r *rig) { must(t, of(r).Start(t.Context())) },
		},
		{
			where: "broker", what: "stopped for 3 s", hits: onlyNode1, gentle: true, lasts: longTime,
			begin: signal(syscall.SIGSTOP), end: signal(syscall.SIGCONT),
		},
		{
			where: "agent without power", what: "kill -9", hits: onlyNode1,
			begin: func(_ *testing.T, r *rig) { r.Agents["node1"].Process.Kill() },
			end:   func(t *testing.T, r *rig) { must(t, r.Agents["node1"].Start(t.Context())) },
		},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
