//go:build linux

package main

import (
	"math"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/bench/measure"
	"github.com/culvert-k8s/culvert/test/lab"
)

// results are those of a machine where everything is as given.
func results(set map[[3]string]float64) *measure.Results {
	r := &measure.Results{}
	for at, value := range set {
		r.Of(at[0], at[1], at[2], "", false).Samples = []float64{value}
	}
	return r
}

func TestGuard(t *testing.T) {
	one := caseBulk(false, 1)
	chosen := []*probe{{name: one}}
	const cpu = "CPU between client and pod"
	good := func(limit, ours float64) map[[3]string]float64 {
		return map[[3]string]float64{
			{one, "speed", wayLimit}: limit, {one, "speed", wayCulvert}: ours, {one, cpu, wayLimit}: 1, {one, cpu, wayCulvert}: 1,
		}
	}
	for _, tt := range []struct {
		name          string
		limit, ours   float64
		met, tolerant bool
	}{
		{"ahead", 100, 120, true, true},
		{"behind", 100, 80, false, true},
		{"far behind", 100, 20, false, false},
	} {
		r := results(good(tt.limit, tt.ours))
		verdict := judge(r)[0]
		if verdict.Met != tt.met {
			t.Errorf("%s: %+v", tt.name, verdict)
		}
		bad, err := guard(r, chosen)
		if (err == nil) != tt.tolerant || len(bad) == 0 != tt.tolerant {
			t.Errorf("%s: %v, %v", tt.name, bad, err)
		}
	}
	if _, err := guard(&measure.Results{}, chosen); err == nil {
		t.Error("nothing was measured, and that was tolerated")
	}
	failed := results(good(100, 100))
	failed.Of(one, failureMetric, wayCulvert, "", true).Failures = 1
	if _, err := guard(failed, chosen); err == nil {
		t.Error("a failure was tolerated")
	}
	if bad, err := guard(&measure.Results{}, nil); err != nil || len(bad) > 0 {
		t.Errorf("what was not chosen: %v", err)
	}
}

func TestWorst(t *testing.T) {
	r := results(map[[3]string]float64{
		{"a", "speed", wayStock}: 100, {"a", "speed", wayThrough}: 150,
		{"b", "rate", wayStockSPDY}: 100, {"b", "rate", wayThroughSPDY}: 90,
		{"b", "p50", wayStock}: 1, {"b", "p50", wayThrough}: 0.1,
	})
	if got := worst(r); math.Abs(got-0.9) > 1e-9 {
		t.Errorf("%v", got)
	}
}

func TestTenThousand(t *testing.T) {
	for streams, want := range map[float64]float64{500: math.NaN(), 2000: 50 + 8*1000/1024.0*10, 10_000: 50} {
		r := results(map[[3]string]float64{
			{caseHeld, "streams", wayCulvert}: streams, {caseHeld, "agent with them", wayCulvert}: 50,
			{caseHeld, "agent, each stream", wayCulvert}: 10,
		})
		if got := tenThousand(r); math.Abs(got-want) > 1e-9 || math.IsNaN(got) != math.IsNaN(want) {
			t.Errorf("with %v streams: %v, want %v", streams, got, want)
		}
	}
}

func TestChoose(t *testing.T) {
	all, err := choose("")
	if err != nil || len(all) != len(probes()) {
		t.Errorf("%d, %v", len(all), err)
	}
	names := map[string]bool{}
	for _, p := range all {
		if names[p.name] || p.run == nil {
			t.Errorf("%q is twice there, or does nothing", p.name)
		}
		names[p.name] = true
	}
	some, err := choose("packets,start")
	if err != nil || len(some) != 2 {
		t.Errorf("%d, %v", len(some), err)
	}
	if _, err := choose("crowd,nothing"); err == nil {
		t.Error("cases that do not exist")
	}
	ways := []*way{{name: wayLimit}, {name: wayCulvert}}
	if got, err := chooseWays(ways, wayCulvert); err != nil || len(got) != 1 || got[0] != ways[1] {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := chooseWays(ways, wayStock); err == nil {
		t.Error("a way that is not there")
	}
}

func TestThickest(t *testing.T) {
	var packets []lab.Packet
	for _, at := range []int{0, 50, 99, 160, 400} { // milliseconds
		var p lab.Packet
		p.Time = p.Time.Add(time.Duration(at) * time.Millisecond)
		packets = append(packets, p)
	}
	if got := thickest(packets); got != 3 {
		t.Errorf("%d", got)
	}
	if got := thickest(nil); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
}
