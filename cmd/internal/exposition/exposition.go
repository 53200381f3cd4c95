// Package exposition is what /metrics of the two servers answers: what their rooms
// count, what the process is, and what each number means. docs/metrics.md is
// written from the same list.
package exposition

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"

	vm "github.com/VictoriaMetrics/metrics"
)

// Metric is one family of metrics.
type Metric struct {
	Name   string
	Type   string // counter, gauge or histogram
	Labels string // names of the labels, with their values where those are few
	Help   string // one line
	// When says what it takes for the metric to be there; empty: it always is.
	When string
}

// Page writes /metrics.
type Page struct {
	// Known are the metrics that there are.
	Known []Metric
	// Version is that of the program.
	Version string
	// Rooms write what they count in the text format of Prometheus, each family of
	// metrics in one piece.
	Rooms []func(io.Writer)
}

// Write writes all metrics. What is not known is written as it is.
func (p *Page) Write(w io.Writer) {
	var b bytes.Buffer
	for _, room := range p.Rooms {
		room(&b)
	}
	fmt.Fprintf(&b, "culvert_build_info{version=%q,go_version=%q} 1\n", p.Version, runtime.Version())
	known := make(map[string]*Metric, len(p.Known))
	for i := range p.Known {
		known[p.Known[i].Name] = &p.Known[i]
	}
	out := bufio.NewWriter(w)
	last := ""
	for line := range strings.Lines(b.String()) {
		if m := family(known, line); m != nil && m.Name != last {
			last = m.Name
			fmt.Fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", m.Name, m.Help, m.Name, m.Type)
		}
		_, _ = out.WriteString(line)
	}
	vm.WriteProcessMetrics(out)
	vm.WriteFDMetrics(out)
	_ = out.Flush() // whoever asked has hung up
}

// family returns what a line is about, nil if that is not known.
func family(known map[string]*Metric, line string) *Metric {
	name := Name(line)
	if m := known[name]; m != nil {
		return m
	}
	for _, part := range []string{"_bucket", "_sum", "_count"} {
		if whole, ok := strings.CutSuffix(name, part); ok && known[whole] != nil && known[whole].Type == "histogram" {
			return known[whole]
		}
	}
	return nil
}

// Name returns the name in a line of the text format; empty if it is a comment.
func Name(line string) string {
	if strings.HasPrefix(line, "#") {
		return ""
	}
	if i := strings.IndexAny(line, "{ \n"); i >= 0 {
		line = line[:i]
	}
	return line
}
