package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"
)

// setting is one size of a site.
type setting struct {
	nodes, relays, k int // k = relays: all to all
	streams          int // open at once, in all
}

// cost is what a relay holds for each, in bytes. See measure.go.
type cost struct{ tunnel, stream int }

func main() {
	nodes := flag.Int("nodes", 50000, "`number` of nodes of the largest size")
	seed := flag.Uint64("seed", 1, "of all chance")
	tunnel := flag.Int("tunnel-bytes", measuredTunnel, "memory of a relay for one idle tunnel")
	stream := flag.Int("stream-bytes", measuredStream, "memory of a relay for one open stream")
	measure := flag.Bool("measure", false, "measure these two at a real relay instead")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *measure {
		if err := measureRelay(ctx, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "scale:", err)
			os.Exit(1)
		}
		return
	}
	tables(os.Stdout, *nodes, *seed, cost{*tunnel, *stream})
}

// settings are the sizes that the tables show.
func settings(largest int) []setting {
	var out []setting
	for _, s := range []setting{
		{nodes: 1000, relays: 3, k: 3}, {nodes: 5000, relays: 3, k: 3}, {nodes: 10000, relays: 5, k: 5},
		{nodes: largest, relays: 5, k: 5}, {nodes: largest, relays: 10, k: 2}, {nodes: largest, relays: 10, k: 3},
		{nodes: largest, relays: 20, k: 3}, {nodes: largest, relays: 30, k: 3},
	} {
		s.streams = s.nodes // one for each node, as an example
		out = append(out, s)
	}
	return out
}

func (s setting) name() string {
	if s.k == s.relays {
		return fmt.Sprintf("%d nodes, all to %d", s.nodes, s.relays)
	}
	return fmt.Sprintf("%d nodes, %d of %d", s.nodes, s.k, s.relays)
}

func tables(w io.Writer, largest int, seed uint64, c cost) {
	fmt.Fprintf(w, "Memory: %.0f KiB for a tunnel, %.0f KiB for a stream, one stream for each node.\n\n", kib(c.tunnel), kib(c.stream))
	fmt.Fprintln(w, "| size | tunnels of a relay, mean | max/mean | memory of the fullest, MiB | at hand | between relays | tunnels that move for one relay more | nodes without a relay when 2 die at once |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|")
	for _, s := range settings(largest) {
		fmt.Fprintln(w, s.row(c))
	}
	fmt.Fprintln(w, "\nDials of the relay that meets most of them.")
	fmt.Fprintln(w, "\n| size | event | agents | spread | most in a second | dials in vain | all back after |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|")
	for _, s := range settings(largest) {
		for _, line := range s.storms(seed) {
			fmt.Fprintln(w, line)
		}
	}
}

func kib(n int) float64 { return float64(n) / 1024 }

// row is what a size means while nothing happens.
func (s setting) row(c cost) string {
	relays := names(s.relays)
	l := loadOf(s.nodes, relays, s.k)
	at := atHand(s.relays, s.k)
	// A stream that is not at hand passes two relays.
	streams := float64(s.streams) / float64(s.relays) * (2 - at)
	memory := (float64(l.max*c.tunnel) + streams*float64(c.stream)) / (1 << 20)
	return fmt.Sprintf("| %s | %.0f | %.3f | %.0f | %.0f %% | %.0f %% | %.1f %% | %.2f %% |", s.name(), l.mean, float64(l.max)/l.mean, memory,
		100*at, 100*(1-at), 100*s.movedBy(1), 100*unreached(s.nodes, relays, s.k, 2))
}

// atHand is how probable it is that a client's relay has the node's tunnel: clients
// come to any relay.
func atHand(relays, k int) float64 { return float64(k) / float64(relays) }

// movedBy is which part of the tunnels is made anew when so many relays come. To all:
// the newcomer's only, which all nodes dial.
func (s setting) movedBy(more int) float64 {
	if s.k == s.relays {
		return float64(more) / float64(s.relays+more)
	}
	return moved(s.nodes, names(s.relays), names(s.relays+more), s.k)
}

// storms are the two that matter: a relay dies, and a relay comes.
func (s setting) storms(seed uint64) []string {
	rng := rand.New(rand.NewPCG(seed, uint64(s.nodes*100+s.relays)))
	var out []string
	say := func(event string, targets []int, spread time.Duration) {
		st := blow(targets, spread, relayDoor, rng)
		out = append(out, fmt.Sprintf("| %s | %s | %d | %v | %d | %d | %v |", s.name(), event, len(targets), spread.Round(time.Second/10),
			st.peak, st.refuse, st.took.Round(time.Second/10)))
	}
	if s.k == s.relays {
		say("a relay comes, all that see it in DNS dial", make([]int, s.nodes), 5*time.Second)
		say("the same, spread as relays ask", make([]int, s.nodes), spreadOver(s.nodes))
		return out
	}
	relays := names(s.relays)
	dead := heirs(s.nodes, relays, s.k, 0)
	say("a relay dies, nobody waits", dead, 0)
	say("the same, spread over 10 s", dead, 10*time.Second)
	comes := make([]int, loadOf(s.nodes, names(s.relays+1), s.k).perRelay[uint64(s.relays)])
	say("a relay comes, spread as relays ask", comes, spreadOver(len(comes)))
	return out
}
