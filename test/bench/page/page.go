// Package page writes the results of a run for people: a page of the documentation
// with tables and plots.
package page

import (
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/culvert-k8s/culvert/test/bench/measure"
)

// head is the beginning of the page.
const head = `# Performance

<!-- Written by make bench. What is written by hand is in performance-levers.md, and copied from there. -->

Culvert beside the limit of its path and beside the stock path, in one run on one machine, the ways in turn within each round. Repeat it
with ` + "`make bench`" + `: it builds everything, starts a real Kubernetes of two nodes on this machine, and writes this page. ` + "`make bench-guard`" + `
is a short form of it for each change.

| way | what it is |
|---|---|
| limit | the same hosts and hops, TLS 1.3 on each leg, a copy loop each way and nothing else: no multiplexing, no authorization. A connection of its own on each leg for each forwarded connection |
| kubectl, kubectl SPDY | stock kubectl, a new one with WebSocket and an old one with SPDY, by kube-apiserver, kubelet and containerd |
| ..., Culvert | the same kubectl, with a kubeconfig that leads it to Culvert's relay |
| culvert | culvert, its relay and its agent |

Ratios say more than numbers: both ends, all that is between them, the pod and the load share the processors of one machine. Delayed paths
have a proxy that holds bytes back, and on the one with loss it holds a connection up for a round trip at about every thousandth segment.

`

// Verdict is how a target was met.
type Verdict struct {
	// What is measured. It should be at least the bound, or at most.
	What  string
	Least bool
	Bound float64
	// Value is what it is, NaN if it was not measured.
	Value float64
	Met   bool
}

// Page is what is written.
type Page struct {
	Results  *measure.Results
	Verdicts []Verdict
	// Remarks stand below the verdicts.
	Remarks []string
	// Ways are the columns in their order, with their titles. The first is the one
	// that others are compared to.
	Ways []Way
	// Plots are the names of the plots that lie beside the page.
	Plots []string
}

// Way is a column.
type Way struct{ Name, Title string }

// Number writes a number with three digits.
func Number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// Markdown is what the results say.
func (p *Page) Markdown() string {
	var b strings.Builder
	r := p.Results
	fmt.Fprintf(&b, "## Results\n\nMeasured on %s", r.Began.UTC().Format("2006-01-02"))
	if r.Commit != "" {
		fmt.Fprintf(&b, " at commit %s", r.Commit)
	}
	fmt.Fprintf(&b, ", at most %d rounds, in %.0f minutes; %s.\n", r.Rounds, math.Ceil(r.Took/60), strings.Join(r.Facts, "; "))
	if r.Runs > 1 {
		fmt.Fprintf(&b, "\nThe cases are from %d runs, of which this is the last; the ways of a case are always from one.\n", r.Runs)
	}
	if r.Quick {
		b.WriteString("\n**A quick run: the numbers only show that the benchmark works.**\n")
	}
	if best := measure.Quantile(r.Gauge, 1); best > 0 {
		fmt.Fprintf(&b, "\nNoise gauge: before each measurement the machine did a fixed work at %.0f %% of its best speed (median), at worst at %.0f %%; %d of %d began while others used it.\n",
			100*measure.Quantile(r.Gauge, 0.5)/best, 100*measure.Quantile(r.Gauge, 0)/best, r.Restless, len(r.Gauge))
	}
	p.verdicts(&b)
	for _, plot := range p.Plots {
		fmt.Fprintf(&b, "\n![%s](%s)\n", strings.TrimSuffix(filepath.Base(plot), ".svg"), plot)
	}
	b.WriteString("\n### All numbers\n\nMedian, in parentheses the least and the largest of all rounds; behind × how many times the median of the first column.\n")
	for _, c := range p.cases() {
		p.table(&b, c)
	}
	return b.String()
}

func (p *Page) verdicts(b *strings.Builder) {
	if len(p.Verdicts) == 0 {
		return
	}
	b.WriteString("\n### Targets\n\n| | target | measured | |\n|---|---|---|---|\n")
	for _, v := range p.Verdicts {
		bound, mark := "at most ", "**no**"
		if v.Least {
			bound = "at least "
		}
		switch {
		case math.IsNaN(v.Value):
			mark = "not measured"
		case v.Met:
			mark = "yes"
		}
		fmt.Fprintf(b, "| %s | %s%s | %s | %s |\n", v.What, bound, Number(v.Bound), Number(v.Value), mark)
	}
	for _, text := range p.Remarks {
		fmt.Fprintf(b, "\n%s\n", text)
	}
}

// cases are all cases in the order of their first series.
func (p *Page) cases() []string {
	var all []string
	for _, s := range p.Results.Series {
		if !slices.Contains(all, s.Case) {
			all = append(all, s.Case)
		}
	}
	return all
}

// table writes what is known of a case: a row for each metric, a column for each
// way that was measured.
func (p *Page) table(b *strings.Builder, c string) {
	var metrics []*measure.Series
	used := map[string]bool{}
	for _, s := range p.Results.Series {
		if s.Case != c {
			continue
		}
		used[s.Way] = true
		known := func(o *measure.Series) bool { return o.Metric == s.Metric }
		if len(s.Samples) > 0 && !slices.ContainsFunc(metrics, known) {
			metrics = append(metrics, s)
		}
	}
	ways := slices.DeleteFunc(slices.Clone(p.Ways), func(w Way) bool { return !used[w.Name] })
	fmt.Fprintf(b, "\n**%s**\n\n|", c)
	for _, w := range ways {
		fmt.Fprintf(b, " | %s", w.Title)
	}
	fmt.Fprintf(b, " |\n|%s\n", strings.Repeat("---|", len(ways)+1))
	for _, m := range metrics {
		title := m.Metric
		if m.Unit != "" {
			title += ", " + m.Unit
		}
		fmt.Fprintf(b, "| %s |", title)
		for _, w := range ways {
			fmt.Fprintf(b, " %s |", p.cell(c, m.Metric, w.Name))
		}
		b.WriteString("\n")
	}
	for _, w := range ways {
		for _, s := range p.Results.Series {
			if s.Case == c && s.Way == w.Name && s.Failures > 0 {
				fmt.Fprintf(b, "\n%s failed in %d rounds: `%s`\n", w.Title, s.Failures, oneLine(s.Failure))
			}
		}
	}
}

func (p *Page) cell(c, metric, way string) string {
	s := p.Results.Find(c, metric, way)
	if s == nil || len(s.Samples) == 0 {
		return "–"
	}
	text := Number(s.Median())
	if least, most := s.Range(); least != most {
		text += fmt.Sprintf(" (%s–%s)", Number(least), Number(most))
	}
	if ratio := p.Results.Ratio(c, metric, way, p.Ways[0].Name); way != p.Ways[0].Name && !math.IsNaN(ratio) && !math.IsInf(ratio, 0) {
		text += " ×" + Number(ratio)
	}
	return text
}

// oneLine makes a text fit for a code span.
func oneLine(text string) string {
	text = strings.NewReplacer("\n", " ", "`", "'", "|", "/").Replace(text)
	const most = 200
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return text
}

// Write makes the page: what results say, and after that what the file with the
// levers has, if there is one.
func Write(file, text, levers string) error {
	more, err := os.ReadFile(levers)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("write %s: %w", filepath.Base(file), err)
	}
	all := head + strings.TrimSpace(text) + "\n"
	if len(more) > 0 {
		all += "\n" + strings.TrimSpace(string(more)) + "\n"
	}
	if err := os.WriteFile(file, []byte(all), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(file), err)
	}
	return nil
}

// escape makes a text fit for SVG.
func escape(text string) string { return html.EscapeString(text) }
