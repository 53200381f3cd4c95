package main

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const testNodes = 10000

// TestPlacement holds what makes rendezvous hashing worth it: load is even, one relay
// more moves what it gets and no more, and the order of relays means nothing.
func TestPlacement(t *testing.T) {
	for _, s := range []setting{{relays: 5, k: 2}, {relays: 10, k: 3}, {relays: 30, k: 3}} {
		relays := names(s.relays)
		l := loadOf(testNodes, relays, s.k)
		if even := float64(l.max) / l.mean; even > 1.10 || even < 1 {
			t.Errorf("%d of %d: max/mean %.3f", s.k, s.relays, even)
		}
		want := 1 / float64(s.relays+1)
		if got := moved(testNodes, relays, names(s.relays+1), s.k); got < 0.9*want || got > 1.1*want {
			t.Errorf("%d of %d: one relay more moves %.4f, want about %.4f", s.k, s.relays, got, want)
		}
		want = 1 / float64(s.relays)
		if got := moved(testNodes, relays, relays[1:], s.k); got < 0.9*want || got > 1.1*want {
			t.Errorf("%d of %d: one relay less moves %.4f, want about %.4f", s.k, s.relays, got, want)
		}
		if got := unreached(testNodes, relays, s.k, s.k-1); got != 0 {
			t.Errorf("%d of %d: %.4f unreached when %d are gone", s.k, s.relays, got, s.k-1)
		}
		// One more is enough for those that had just these: one node in (n over k).
		want = 1.0
		for i := range s.k {
			want *= float64(s.k-i) / float64(s.relays-i)
		}
		if got := unreached(testNodes, relays, s.k, s.k); got < want/4-0.0005 || got > want*1.2+0.0005 {
			t.Errorf("%d of %d: %.4f unreached when %d are gone, want about %.4f", s.k, s.relays, got, s.k, want)
		}
		backwards := slices.Clone(relays)
		slices.Reverse(backwards)
		for n := range uint64(100) {
			got := place(n, relays, s.k)
			if !slices.Equal(got, place(n, backwards, s.k)) || len(slices.Compact(slices.Sorted(slices.Values(got)))) != s.k {
				t.Fatalf("node %d: %v", n, got)
			}
		}
	}
	if got := place(1, names(2), 3); len(got) != 2 {
		t.Errorf("3 of 2 relays: %v", got)
	}
}

// TestStorms holds that a spread keeps a relay below what it takes, and that its
// absence shows: otherwise the simulation could not tell.
func TestStorms(t *testing.T) {
	run := func(agents int, spread time.Duration) storm {
		return blow(make([]int, agents), spread, relayDoor, rand.New(rand.NewPCG(1, 2)))
	}
	calm := run(5000, spreadOver(5000))
	if calm.refuse != 0 || calm.peak > 260 || calm.took > 28*time.Second {
		t.Errorf("5,000 over 25 s: %+v", calm)
	}
	wild := run(5000, 0)
	if wild.refuse == 0 || wild.peak < 5000 || wild.took < 25*time.Second {
		t.Errorf("5,000 at once: %+v", wild)
	}
	if wild.dials != 5000+wild.refuse {
		t.Errorf("%d dials of 5,000 agents, %d in vain", wild.dials, wild.refuse)
	}
	dead := heirs(testNodes, names(10), 3, 4)
	if n := len(dead); n < 2850 || n > 3150 || slices.Contains(dead, 4) {
		t.Errorf("%d tunnels of one of ten relays", n)
	}
	share := map[int]int{}
	for _, r := range dead {
		share[r]++
	}
	if len(share) != 9 {
		t.Errorf("the tunnels of a dead relay go to %d others", len(share))
	}
	for r, n := range share {
		if n < 250 || n > 430 {
			t.Errorf("relay %d inherits %d of %d", r, n, len(dead))
		}
	}
}

// TestSameNumbers has the tables come out the same each time.
func TestSameNumbers(t *testing.T) {
	var one, two bytes.Buffer
	tables(&one, 12000, 1, cost{1, 1})
	tables(&two, 12000, 1, cost{1, 1})
	if one.Len() == 0 || !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two runs differ")
	}
}
