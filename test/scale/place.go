package main

import (
	"slices"
)

// mix is the finalizer of splitmix64: each bit of the input changes half of the
// output's.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// score is how much a relay is a node's. Both ends compute it from the names.
func score(node, relay uint64) uint64 { return mix(mix(node) ^ mix(relay^0x5bf03635)) }

// place returns the k relays of a node out of those that there are: those with the
// highest scores, best first (rendezvous hashing). Nothing is kept and nobody is
// asked, and one relay more or less moves only what it gets or had.
func place(node uint64, relays []uint64, k int) []uint64 {
	type ranked struct{ relay, score uint64 }
	best := make([]ranked, 0, k+1)
	for _, r := range relays {
		s := score(node, r)
		if len(best) == k && s < best[k-1].score {
			continue
		}
		i := 0
		for i < len(best) && best[i].score >= s {
			i++
		}
		best = slices.Insert(best, i, ranked{r, s})
		best = best[:min(len(best), k)]
	}
	out := make([]uint64, len(best))
	for i, b := range best {
		out[i] = b.relay
	}
	return out
}

// load is how tunnels are spread over relays.
type load struct {
	perRelay map[uint64]int
	mean     float64
	max      int
}

func loadOf(nodes int, relays []uint64, k int) load {
	l := load{perRelay: make(map[uint64]int)}
	for n := range nodes {
		for _, r := range place(uint64(n), relays, k) {
			l.perRelay[r]++
		}
	}
	l.mean = float64(nodes*k) / float64(len(relays))
	for _, n := range l.perRelay {
		l.max = max(l.max, n)
	}
	return l
}

// moved returns which part of all tunnels has to be made anew when the relays
// change.
func moved(nodes int, before, after []uint64, k int) float64 {
	fresh := 0
	for n := range nodes {
		was := place(uint64(n), before, k)
		for _, r := range place(uint64(n), after, k) {
			if !slices.Contains(was, r) {
				fresh++
			}
		}
	}
	return float64(fresh) / float64(nodes*k)
}

// unreached returns which part of the nodes has none of its relays when some are
// gone at once and nobody has moved yet.
func unreached(nodes int, relays []uint64, k, gone int) float64 {
	lost := 0
	for n := range nodes {
		left := slices.ContainsFunc(place(uint64(n), relays, k), func(r uint64) bool { return !slices.Contains(relays[:gone], r) })
		if !left {
			lost++
		}
	}
	return float64(lost) / float64(nodes)
}

func names(n int) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(i)
	}
	return out
}
