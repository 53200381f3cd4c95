//go:build linux

package faults

import (
	"context"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/faults/traffic"
	"github.com/culvert-k8s/culvert/test/lab"
)

// fault is one thing that goes wrong.
type fault struct {
	// where and what name it in docs/reliability.md.
	where, what string
	// hits are the flows on which connections may fail; all others must not notice.
	// nil: nobody may.
	hits place
	// begin makes it happen.
	begin func(t *testing.T, r *rig)
	// end mends it; nil for what is over as soon as it happened.
	end func(t *testing.T, r *rig)
	// gentle is a fault that refuses connections and breaks none.
	gentle bool
	// lasts is for how long, if end is there; 0 means until a connection has failed
	// on it and patience at most.
	lasts time.Duration
	// says is a pattern of what culvert must write for one of the users that are
	// hit; empty if it need not.
	says string
}

// result is a row of docs/reliability.md.
type result struct {
	where, what   string
	noticed, back time.Duration
	seen          bool // by any connection
	during, all   traffic.Totals
	said          []string
}

const (
	// settled is how many connections must have gone well before a fault and after it.
	settled = 40
)

// try breaks one thing under load, mends it, and looks at everything.
func (f *fault) try(t *testing.T, r *rig) result {
	var flows []string
	if f.hits != nil {
		flows = r.flows(f.hits)
	}
	before := r.load.Totals()
	r.awaitClean(t, before.Clean+settled)
	marks := r.marks(flows)
	if f.hits == nil {
		marks = r.marks(r.flows(everybody))
	}

	d := r.load.Disturb(flows...)
	f.begin(t, r)
	if f.end != nil {
		f.wait(t, d)
		f.end(t, r)
	}
	back := r.awaitService(t, r.flows(everybody))
	noticed, seen := d.Noticed()
	r.settle(t) // whoever was connected before has heard of it
	d.End()
	said := f.said(t, r, marks)

	r.awaitClean(t, r.load.Totals().Clean+settled)
	r.quiet(t)
	if err := r.load.Problems(); err != nil {
		t.Error(err)
	}
	if n := d.Broken(); f.gentle && n > 0 {
		t.Errorf("%d connections were broken off, and not only refused", n)
	}
	r.nothingLeft(t)
	r.load.Resume()
	all := r.load.Totals()
	all.Begun, all.Clean, all.Cut, all.Refused = all.Begun-before.Begun, all.Clean-before.Clean, all.Cut-before.Cut, all.Refused-before.Refused
	all.Bytes -= before.Bytes
	return result{
		where: f.where, what: f.what, noticed: noticed, seen: seen, back: back,
		during: d.Totals(), all: all, said: said,
	}
}

// wait lets the fault last.
func (f *fault) wait(t *testing.T, d *traffic.Disturbance) {
	t.Helper()
	if f.lasts > 0 {
		time.Sleep(f.lasts)
		return
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, seen := d.Noticed(); seen {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody noticed for %v", patience)
		}
	}
}

// awaitClean waits until so many connections have gone well.
func (r *rig) awaitClean(t *testing.T, n int64) {
	t.Helper()
	for deadline := time.Now().Add(patience); r.load.Totals().Clean < n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the load does not get on: %+v, %v", r.load.Totals(), r.load.Problems())
		}
	}
}

// settle waits until what was begun before is over.
func (r *rig) settle(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.load.Settle(ctx); err != nil {
		t.Errorf("after the fault: %v", err)
	}
}

// marks note how much the forwards of the flows have written so far.
func (r *rig) marks(flows []string) map[*lab.Process]int {
	marks := map[*lab.Process]int{}
	for _, name := range flows {
		p := r.forwardOf(name).Process
		marks[p] = p.Mark()
	}
	return marks
}

// said returns what the forwards wrote of the fault, as its user would read it. When
// there was nothing to notice, they must have been silent.
func (f *fault) said(t *testing.T, r *rig, marks map[*lab.Process]int) []string {
	t.Helper()
	re := regexp.MustCompile(f.says)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		texts := newLines(marks)
		if f.hits == nil && len(texts) > 0 {
			t.Errorf("nothing happened to users, and yet they were told %q", texts)
		}
		if f.says == "" || slices.ContainsFunc(texts, re.MatchString) {
			return texts
		}
		if time.Now().After(deadline) {
			t.Errorf("no user was told %q, but %q", f.says, texts)
			return texts
		}
	}
}

var (
	// byPlan is said of connections that the load itself breaks off in the pod.
	byPlan    = regexp.MustCompile(`the pod reset the connection|: stream to ADDRESS: connection reset$`)
	address   = regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+:\d+\b`)
	localPort = regexp.MustCompile(`forwarding \d+ ->`)
)

// newLines returns what processes have written to standard error since the marks,
// each line once and without what is of this run only.
func newLines(marks map[*lab.Process]int) []string {
	var texts []string
	for p, mark := range marks {
		for _, line := range p.Lines()[mark:] {
			text := localPort.ReplaceAllString(address.ReplaceAllString(line.Text, "ADDRESS"), "forwarding PORT ->")
			if line.From == lab.Stderr && !byPlan.MatchString(text) && !slices.Contains(texts, text) {
				texts = append(texts, text)
			}
		}
	}
	return texts
}
