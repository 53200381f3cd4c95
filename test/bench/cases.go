//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// What the delayed paths are like.
const (
	longRTT  = 50 * time.Millisecond
	shortRTT = 20 * time.Millisecond
	loss     = 0.001
)

// The names of cases that targets look at.
const (
	caseFootprint = "the agent when nobody uses it"
	caseStart     = "command start to first answer"
	casePing      = "ping-pong of 1 byte"
	casePackets   = "the node's wire, per request"
	caseOpen      = "new connection, 20 ms round trip on each leg"
	caseStalled   = "busy stream beside a stalled one"
	caseHeld      = "idle streams"
	caseCrowd     = "many agents on one relay"
	caseTokens    = "many agents on one relay, with tokens that the API server reviews"
	caseToEnd     = "a new connection per request that the pod ends, 8 in parallel"
)

func caseBulk(up bool, streams int) string {
	direction := "down"
	if up {
		direction = "up"
	}
	if streams == 1 {
		return "bulk " + direction + ", 1 stream"
	}
	return fmt.Sprintf("bulk %s, %d streams", direction, streams)
}

func caseKeepAlive(conns int) string {
	if conns == 1 {
		return "keep-alive requests, 1 connection"
	}
	return fmt.Sprintf("keep-alive requests, %d connections", conns)
}

func caseFresh(workers int) string {
	return fmt.Sprintf("a new connection per request, %d in parallel", workers)
}

func caseLong(up bool) string  { return caseBulk(up, 1) + ", 50 ms round trip" }
func caseLossy(up bool) string { return caseBulk(up, 1) + ", 20 ms round trip with loss" }

// probes are all cases in the order they are run.
func probes() []*probe {
	all := []*probe{
		{group: "idle", name: caseFootprint, only: []string{wayCulvert}, alone: true, most: 1, run: footprint},
	}
	for _, streams := range []int{1, 8, 64} {
		for _, up := range []bool{false, true} {
			all = append(all, &probe{group: "bulk", name: caseBulk(up, streams), run: bulk(streams, up)})
		}
	}
	for _, conns := range []int{1, 16} {
		all = append(all, &probe{group: "requests", name: caseKeepAlive(conns), run: keepAlive(conns)})
	}
	for _, workers := range []int{1, 8, 64} {
		all = append(all, &probe{group: "connections", name: caseFresh(workers), run: fresh(workers)})
	}
	all = append(all,
		&probe{group: "connections", name: caseToEnd, run: toEnd(8)},
		&probe{group: "requests", name: casePing, run: ping},
		&probe{group: "start", name: caseStart, alone: true, run: start},
		&probe{group: "packets", name: casePackets, most: 2, run: packets},
	)
	for _, up := range []bool{false, true} {
		all = append(all,
			&probe{group: "delay", name: caseLong(up), to: far, air: weather{RTT: longRTT}, run: holding(up)},
			&probe{group: "loss", name: caseLossy(up), to: far, air: weather{RTT: shortRTT, Loss: loss}, run: holding(up)})
	}
	return append(all,
		&probe{group: "delay", name: caseOpen, to: beset, air: weather{RTT: shortRTT}, run: firstByte(2 * shortRTT)},
		&probe{group: "stalled", name: caseStalled, alone: true, most: 3, run: beside},
		&probe{group: "idle", name: caseHeld, alone: true, most: 1, run: held},
		&probe{group: "crowd", name: caseCrowd, only: []string{wayCulvert}, alone: true, most: 1, run: crowd},
		&probe{group: "crowd", name: caseTokens, only: []string{wayCulvert}, alone: true, most: 1, run: tokenCrowd},
	)
}

// groups are the names by which cases are chosen.
func groups() []string {
	var all []string
	for _, p := range probes() {
		if !slices.Contains(all, p.group) {
			all = append(all, p.group)
		}
	}
	return all
}

// choose returns the probes of groups, all if none is named.
func choose(list string) ([]*probe, error) {
	all := probes()
	if list == "" {
		return all, nil
	}
	names := strings.Split(list, ",")
	for _, name := range names {
		if !slices.Contains(groups(), name) {
			return nil, fmt.Errorf("no cases %q; there are %s", name, strings.Join(groups(), ", "))
		}
	}
	return slices.DeleteFunc(all, func(p *probe) bool { return !slices.Contains(names, p.group) }), nil
}

// chooseWays returns the ways of a list, all if none is named.
func chooseWays(all []*way, list string) ([]*way, error) {
	if list == "" {
		return all, nil
	}
	var chosen []*way
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(w *way) bool { return w.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no way %q here", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}
