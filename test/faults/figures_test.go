//go:build linux

package faults

import (
	"fmt"
	"strings"

	"github.com/culvert-k8s/culvert/test/faults/traffic"
)

// figures are what one of the tests has done in all.
type figures struct {
	name   string // as in the file
	faults int
	totals traffic.Totals
}

// The rows of the first table of docs/reliability.md, each of one test.
const (
	figuresFaults  = "one fault after the other"
	figuresCluster = "the same below Kubernetes"
	figuresCrowd   = "ten thousand connections at once"
	figuresSoak    = "faults drawn at random"
)

// sum adds up what was tried one after the other.
func (p *report) sum(name string) {
	f := &figures{name: name}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sections {
		for _, r := range s.rows {
			f.faults++
			f.totals.Begun += r.all.Begun
			f.totals.Cut += r.all.Cut
			f.totals.Refused += r.all.Refused
			f.totals.Bytes += r.all.Bytes
		}
	}
	p.figures = f
}

func (f *figures) row() string {
	size := fmt.Sprintf("%.2f GiB", float64(f.totals.Bytes)/(1<<30))
	if f.totals.Bytes < 1<<30 {
		size = fmt.Sprintf("%.1f MiB", float64(f.totals.Bytes)/(1<<20))
	}
	return fmt.Sprintf("| %s | %d | %d | %s | %d | %d | 0 |", f.name, f.faults, f.totals.Begun, size, f.totals.Cut, f.totals.Refused)
}

// addFigures puts the row of this test, if there is one, in the place of the old one.
// Others stay, as other tests write them.
func (p *report) addFigures(old string) {
	if p.figures == nil {
		return
	}
	var b strings.Builder
	b.WriteString("| | faults | connections | received and compared | broken off by a fault | refused while there was no way | lost, wrong or hanging |\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, name := range []string{figuresFaults, figuresCluster, figuresCrowd, figuresSoak} {
		if name == p.figures.name {
			b.WriteString(p.figures.row() + "\n")
			continue
		}
		for line := range strings.Lines(old) {
			if strings.HasPrefix(line, "| "+name+" |") {
				b.WriteString(line)
			}
		}
	}
	p.of(titleFigures).text = b.String()
}
