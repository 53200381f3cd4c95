//go:build linux

package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/faults/traffic"
	"github.com/culvert-k8s/culvert/test/lab"
)

const (
	// shortSoak is what go test does by itself.
	shortSoak = 20 * time.Second
	// inspectEvery is how often a long soak looks whether something is left behind.
	inspectEvery = 5 * time.Minute
)

// TestSoak loads everything for CULVERT_SOAK (a duration) while one random fault
// follows the other, on both legs and in all processes. CULVERT_SOAK_SEED repeats
// the same faults and connections in the same order.
func TestSoak(t *testing.T) {
	lab.RequireRoot(t)
	length, seed := shortSoak, uint64(time.Now().UnixNano())
	if text := os.Getenv("CULVERT_SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("CULVERT_SOAK: %v", err)
		}
	}
	if text := os.Getenv("CULVERT_SOAK_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("CULVERT_SOAK_SEED: %v", err)
		}
	}
	report := newReport(t)
	t.Logf("to repeat: CULVERT_SOAK=%s CULVERT_SOAK_SEED=%d", length, seed)
	s := &soak{
		rig: newRig(t, rigConfig{load: traffic.Config{Seed: seed}}), seed: seed,
		rng: rand.New(rand.NewPCG(seed, 1)), tried: map[string]int{},
	}
	s.run(t, length)
	if !t.Failed() {
		s.sameGoroutines(t)
		report.of(titleSoak).text = s.markdown()
		report.figures = &figures{name: figuresSoak, faults: s.count(), totals: s.load.Totals()}
		t.Log("\n" + s.markdown())
	}
}

// soak is a rig to which one thing after the other happens.
type soak struct {
	*rig
	seed  uint64
	rng   *rand.Rand
	began time.Time
	took  time.Duration
	tried map[string]int
	// longest is the longest time without service after a fault was mended.
	longest time.Duration
	worst   string
}

// pool are the faults to draw from.
func pool() []fault {
	return slices.Concat(carriers(near, onlyNear), carriers("node1", onlyNode1), cables(), processes())
}

func (s *soak) run(t *testing.T, length time.Duration) {
	s.began = time.Now()
	inspected := time.Now()
	for time.Since(s.began) < length {
		s.once(t, pool())
		if time.Since(inspected) > inspectEvery {
			s.inspect(t)
			s.load.Resume()
			inspected = time.Now()
		}
		if t.Failed() {
			return
		}
	}
	s.took = time.Since(s.began)
	s.inspect(t)
}

// once draws a fault, and how long it lasts.
func (s *soak) once(t *testing.T, from []fault) {
	t.Helper()
	f := from[s.rng.IntN(len(from))]
	lasts := f.lasts
	if f.hits != nil {
		lasts = time.Duration(s.rng.Int64N(int64(5 * time.Second)))
		if s.rng.IntN(8) == 0 {
			lasts = 20 * time.Second
		}
	}
	time.Sleep(time.Duration(s.rng.Int64N(int64(3 * time.Second))))
	var flows []string
	if f.hits != nil {
		flows = s.flows(f.hits)
	}
	d := s.load.Disturb(flows...)
	f.begin(t, s.rig)
	if f.end != nil {
		time.Sleep(lasts)
		f.end(t, s.rig)
	}
	back := s.awaitService(t, s.flows(everybody))
	s.settle(t)
	d.End()
	s.tried[f.where]++
	if back > s.longest {
		s.longest, s.worst = back, f.where+": "+f.what
	}
	if err := s.load.Problems(); err != nil {
		t.Errorf("%s, %s for %v: %v", f.where, f.what, lasts, err)
	}
}

// inspect looks whether anything is left behind.
func (s *soak) inspect(t *testing.T) {
	t.Helper()
	s.quiet(t)
	if err := s.load.Problems(); err != nil {
		t.Error(err)
	}
	s.nothingLeft(t)
}

// sameGoroutines holds the forwards, which do not tell how many goroutines they
// have while they live, against one that was used only once. It ends them.
func (s *soak) sameGoroutines(t *testing.T) {
	t.Helper()
	old := s.programs()
	s.forward(t, far, "node1")
	s.awaitService(t, []string{far + "-node1"})
	s.quiet(t)
	fresh := goroutinesAtEnd(t, s.users[far].forwards["node1"].Process)
	for _, p := range old {
		if p.metrics != nil {
			continue
		}
		n := goroutinesAtEnd(t, p.process)
		t.Logf("%s has %d goroutines, one that is new %d", p.name, n, fresh)
		if n > fresh+spareGoroutines {
			t.Errorf("%s has %d goroutines, one that is new %d", p.name, n, fresh)
		}
	}
}

// goroutinesAtEnd ends a process in the way that makes it list its goroutines.
func goroutinesAtEnd(t *testing.T, p *lab.Process) int {
	t.Helper()
	must(t, p.Signal(syscall.SIGQUIT))
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal("a process does not end at SIGQUIT")
	}
	n := 0
	for _, line := range p.Lines() {
		if line.From == lab.Stderr && strings.HasPrefix(line.Text, "goroutine ") {
			n++
		}
	}
	return n
}

// count returns how many faults were tried.
func (s *soak) count() int {
	n := 0
	for _, of := range s.tried {
		n += of
	}
	return n
}

func (s *soak) markdown() string {
	all := s.load.Totals()
	var b strings.Builder
	fmt.Fprintf(&b, `%s, %d faults drawn at random, one after the other, under mixed load: small questions and answers, transfers up to 4 MiB, half-closes by
either end, resets by either end, idle connections. Seed %d.

| | |
|---|--:|
| connections | %d |
| bytes received and compared | %.2f GiB |
| broken off by a fault | %d |
| refused while there was no way | %d |
| everything else went well | %d |
| wrong bytes, wrong ends, hung connections | 0 |
| longest time without service after a fault was mended | %s (%s) |
`, s.took.Round(time.Second), s.count(), s.seed, all.Begun, float64(all.Bytes)/(1<<30), all.Cut, all.Refused, all.Clean, short(s.longest), s.worst)
	for _, where := range slices.Sorted(maps.Keys(s.tried)) {
		fmt.Fprintf(&b, "| faults of: %s | %d |\n", where, s.tried[where])
	}
	b.WriteString("\nWhat the processes held before it and after it, both times without connections:\n\n| | before | after |\n|---|---|---|\n")
	for _, p := range s.programs() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", p.name, s.clean[p.name], s.last[p.name])
	}
	fmt.Fprintf(&b, `
Descriptors, namespaces and streams must be back exactly; goroutines within %d, threads within %d and memory within twice what it was and
%d MiB, since the runtime of Go keeps some of both for later.
`, spareGoroutines, spareThreads, spareMemory>>20)
	return b.String()
}
