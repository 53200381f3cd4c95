//go:build linux

package faults

import (
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// clocks jump, each in one process.
func clocks() []fault {
	var all []fault
	for _, who := range []struct {
		where string
		hits  place // what was under way when the monotonic clock jumped may be taken for late
		of    func(*rig) *lab.Process
	}{
		{"relay", everybody, func(r *rig) *lab.Process { return r.Relay.Process }},
		{"agent", onlyNode1, func(r *rig) *lab.Process { return r.Agents["node1"].Process }},
		{"client", nearOnNode1, func(r *rig) *lab.Process { return r.users[near].forwards["node1"].Process }},
	} {
		var clock *lab.Clock
		wall := func(by time.Duration) func(*testing.T, *rig) {
			return func(t *testing.T, r *rig) {
				var err error
				if clock == nil {
					clock, err = who.of(r).Clock()
					must(t, err)
				}
				must(t, clock.SetWall(by))
			}
		}
		all = append(all,
			fault{where: who.where, what: "clock an hour ahead for 3 s", lasts: longTime, begin: wall(time.Hour), end: wall(0)},
			fault{where: who.where, what: "clock an hour behind for 3 s", lasts: longTime, begin: wall(-time.Hour), end: wall(0)},
			fault{where: who.where, what: "monotonic clock jumps by ten minutes", hits: who.hits, gentle: true, begin: func(t *testing.T, r *rig) {
				wall(0)(t, r)
				must(t, clock.Set(10*time.Minute, 10*time.Minute))
			}},
		)
	}
	return append(all,
		wrongTime("agent", "clock an hour ahead, and its carrier reset", time.Hour, onlyNode1, "node1",
			func(r *rig) *lab.Process { return r.Agents["node1"].Process }),
		wrongTime("agent", "clock an hour behind, and its carrier reset", -time.Hour, onlyNode1, "node1",
			func(r *rig) *lab.Process { return r.Agents["node1"].Process }),
		wrongTime("relay", "clock two years ahead, and carriers reset", 2*365*24*time.Hour, everybody, "node1",
			func(r *rig) *lab.Process { return r.Relay.Process }),
	)
}

// wrongTime has a new session made while a clock is wrong, which is then put right.
func wrongTime(where, what string, by time.Duration, hits place, link string, of func(*rig) *lab.Process) fault {
	set := func(by time.Duration) func(*testing.T, *rig) {
		return func(t *testing.T, r *rig) {
			clock, err := of(r).Clock()
			must(t, err)
			must(t, clock.SetWall(by))
			if by != 0 {
				r.links[link].CutReset()
			}
		}
	}
	return fault{where: where, what: what, hits: hits, lasts: longTime, begin: set(by), end: set(0)}
}
