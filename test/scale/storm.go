package main

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// door is how a relay takes sessions: so many a second, so many at once waiting, and
// who waits for too long has gone. The figures are those of a relay: 200 agents a
// second with a token, 512 handshakes, 10 s for a dial.
type door struct {
	perSecond int
	waiting   int
	patience  time.Duration
}

var relayDoor = door{perSecond: 200, waiting: 512, patience: 10 * time.Second}

// storm is what happens when agents have to come to relays.
type storm struct {
	took   time.Duration // until the last one is in
	peak   int           // most dials of one relay in one second
	dials  int           // in all
	refuse int           // of them in vain
}

// arrival is one dial of one agent.
type arrival struct {
	at    time.Duration
	relay int
	tries int
	agent int
}

type arrivals []arrival

func (a arrivals) Len() int           { return len(a) }
func (a arrivals) Less(i, j int) bool { return a[i].at < a[j].at }
func (a arrivals) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *arrivals) Push(x any)        { *a = append(*a, x.(arrival)) } //nolint:forcetypeassert // container/heap
func (a *arrivals) Pop() any {
	old := *a
	last := old[len(old)-1]
	*a = old[:len(old)-1]
	return last
}

// blow lets each agent dial the relay that it is given, for the first time within
// spread, then with the pauses that an agent makes: twice as long each time, up to
// 5 s, drawn from the upper half.
func blow(targets []int, spread time.Duration, d door, rng *rand.Rand) storm {
	var queue arrivals
	for agent, relay := range targets {
		at := time.Duration(0)
		if spread > 0 {
			at = time.Duration(rng.Int64N(int64(spread)))
		}
		queue = append(queue, arrival{at: at, relay: relay, agent: agent})
	}
	heap.Init(&queue)
	busyUntil := make(map[int]time.Duration)
	each := time.Second / time.Duration(d.perSecond)
	type second struct {
		relay int
		at    time.Duration
	}
	rate := make(map[second]int)
	var s storm
	for len(queue) > 0 {
		a := heap.Pop(&queue).(arrival) //nolint:forcetypeassert // ours
		s.dials++
		slot := second{a.relay, a.at / time.Second}
		rate[slot]++
		s.peak = max(s.peak, rate[slot])
		begins := max(busyUntil[a.relay], a.at)
		wait := begins - a.at
		if wait < d.patience && wait < time.Duration(d.waiting)*each {
			busyUntil[a.relay] = begins + each
			s.took = max(s.took, begins+each)
			continue
		}
		s.refuse++
		pause := min(100*time.Millisecond<<min(a.tries, 10), 5*time.Second)
		pause = pause/2 + time.Duration(rng.Int64N(int64(pause/2)+1))
		a.at, a.tries = a.at+pause, a.tries+1
		heap.Push(&queue, a)
	}
	return s
}

// spreadOver is the time that a relay gives for it: 200 dials a second, up to 5 min.
func spreadOver(n int) time.Duration { return min(time.Duration(n)*time.Second/200, 5*time.Minute) }

// heirs returns, for each tunnel of a relay that is gone, where it goes.
func heirs(nodes int, relays []uint64, k int, gone uint64) []int {
	var left []uint64
	for _, r := range relays {
		if r != gone {
			left = append(left, r)
		}
	}
	var out []int
	for n := range nodes {
		for _, r := range place(uint64(n), relays, k) {
			if r == gone {
				after := place(uint64(n), left, k)
				out = append(out, int(after[k-1])) // the one that moves up
			}
		}
	}
	return out
}
