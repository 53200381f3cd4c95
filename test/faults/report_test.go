//go:build linux

package faults

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// report gathers what was seen for docs/reliability.md. With
// CULVERT_FAULTS_REPORT=write the sections that were tried are written anew, since
// times differ from run to run; otherwise the file must only name every fault.
type report struct {
	mu       sync.Mutex
	sections map[string]*section
	figures  *figures // nil: not all was tried
}

// section is one heading of the file.
type section struct {
	title string
	rows  []result
	text  string // instead of rows
}

// titles are the headings in their order.
func titles() []string {
	all := []string{titleFigures}
	for _, g := range groups() {
		all = append(all, g.name)
	}
	return append(all, titleCluster, titleCrowd, titleSoak)
}

const (
	titleFigures = "In all"
	titleCluster = "In a Kubernetes cluster"
	titleCrowd   = "Ten thousand connections at once"
	titleSoak    = "Soak"
)

// newReport returns a report that is finished when the test ends well.
func newReport(t *testing.T) *report {
	t.Helper()
	p := &report{sections: map[string]*section{}}
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		if err := p.finish(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *report) of(title string) *section {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sections[title]
	if s == nil {
		s = &section{title: title}
		p.sections[title] = s
	}
	return s
}

func (p *report) add(t *testing.T, title string, r result) {
	t.Helper()
	s := p.of(title)
	p.mu.Lock()
	defer p.mu.Unlock()
	s.rows = append(s.rows, r)
	t.Log(r.row())
}

// finish holds the file against what was tried, or writes it.
func (p *report) finish() error {
	root, err := lab.ModuleDir()
	if err != nil {
		return err
	}
	file := filepath.Join(root, "docs", "reliability.md")
	was, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	old := parts(string(was))
	if os.Getenv("CULVERT_FAULTS_REPORT") != "write" {
		return p.compare(old)
	}
	p.addFigures(old[titleFigures])
	var b strings.Builder
	b.WriteString(reliabilityHead)
	for _, title := range titles() {
		text := old[title]
		if s := p.sections[title]; s != nil {
			text = s.markdown()
		}
		if text != "" {
			fmt.Fprintf(&b, "\n## %s\n\n%s\n", title, strings.TrimSpace(text))
		}
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

// compare looks for faults that the file does not name.
func (p *report) compare(old map[string]string) error {
	for title, s := range p.sections {
		for _, r := range s.rows {
			if !strings.Contains(old[title], "| "+r.name()+" |") {
				return fmt.Errorf("docs/reliability.md does not name the fault %q under %q; make faults writes it", r.name(), title)
			}
		}
	}
	return nil
}

// parts returns the text below each heading.
func parts(text string) map[string]string {
	found := map[string]string{}
	for i, part := range strings.Split(text, "\n## ") {
		if title, body, ok := strings.Cut(part, "\n"); ok && i > 0 {
			found[title] = body
		}
	}
	return found
}

func (s *section) markdown() string {
	if s.text != "" {
		return s.text
	}
	var b strings.Builder
	b.WriteString("| fault | noticed | back | cut | refused | connections | what users are told |\n|---|--:|--:|--:|--:|--:|---|\n")
	for _, r := range s.rows {
		b.WriteString(r.row() + "\n")
	}
	return b.String()
}

func (r *result) name() string { return r.where + ": " + r.what }

func (r *result) row() string {
	noticed := "never"
	if r.seen {
		noticed = short(r.noticed)
	}
	said := "–"
	if told := r.told(); len(told) > 0 {
		said = "`" + strings.ReplaceAll(strings.Join(told, "`<br>`"), "|", `\|`) + "`"
	}
	return fmt.Sprintf("| %s | %s | %s | %d | %d | %d | %s |",
		r.name(), noticed, short(r.back), r.during.Cut, r.during.Refused, r.all.Begun, said)
}

// told returns the shortest error and the shortest warning.
func (r *result) told() []string {
	texts := slices.Clone(r.said)
	slices.SortFunc(texts, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	var told []string
	for _, prefix := range []string{"error: ", "warning: "} {
		if i := slices.IndexFunc(texts, func(s string) bool { return strings.HasPrefix(s, prefix) }); i >= 0 {
			told = append(told, texts[i])
		}
	}
	return told
}

// short writes a time with two digits that matter.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

const reliabilityHead = `# Reliability

What was broken while connections were made and used, and what that did. Everything is real: the programs, the network
namespaces they are in, containerd, Kubernetes. Both ends of every connection are in the test's hands, so that every byte is compared with the one
that was sent in its place, and every end and reset with what the other side really did.

**What was lost: nothing.** No fault below has ever brought a wrong byte, an end that nobody made, a connection made twice, one that
hangs, or anything left behind in a process (descriptors, network namespaces, threads, goroutines, streams, memory): each of these fails the
test. So does a connection that breaks where the fault was not: with a user or a node beside it. What a fault may do is break connections
that lead through it, with a reset at both ends, and keep new ones from being made.

` + "`make faults`" + ` tries all of it and writes this file, and ` + "`make soak`" + ` its last part. CI tries all of it too, with ten minutes of random faults,
and fails if the file does not name a fault; ` + "`make nightly`" + ` takes an hour for them. Times are of a machine with two cores that does other things as well:

- *noticed*: from the fault until the first connection broke because of it; *never* where there was nothing to notice,
- *back*: from when the fault was mended (or happened, if there is nothing to mend) until a new connection worked for every user and pod,
- *cut* and *refused*: connections broken off, and such that never reached the pod; all others of those begun meanwhile went well,
- *what users are told*: a line of ` + "`culvert port-forward`" + `.

A peer that is silent is taken for dead after 15 seconds, which is what most of the longer times are.
`
