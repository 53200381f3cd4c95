package page

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/test/bench/measure"
)

func ways() []Way { return []Way{{"limit", "the limit"}, {"ours", "culvert"}} }

// some are results of one case, in which one round failed.
func some() *measure.Results {
	r := &measure.Results{Rounds: 3, Facts: []string{"2 cores"}, Took: 61}
	r.Of("bulk <down>", "speed", "limit", "MB/s", false).Samples = []float64{200, 100, 300}
	r.Of("bulk <down>", "speed", "ours", "MB/s", false).Samples = []float64{300, 500}
	failed := r.Of("bulk <down>", "failures", "ours", "", true)
	failed.Failures, failed.Failure = 1, "it `broke`\nhere"
	return r
}

func TestMarkdown(t *testing.T) {
	p := &Page{Results: some(), Ways: append(ways(), Way{"other", "another"}), Plots: []string{"performance/speed.svg"}, Verdicts: []Verdict{
		{What: "fast", Least: true, Bound: 1, Value: 2, Met: true},
		{What: "small", Bound: 20, Value: 21},
		{What: "unknown", Value: math.NaN()},
	}}
	got := p.Markdown()
	for _, want := range []string{
		"in 2 minutes; 2 cores.",
		"| fast | at least 1.00 | 2.00 | yes |",
		"| small | at most 20.0 | 21.0 | **no** |",
		"| unknown | at most 0.00 | – | not measured |",
		"![speed](performance/speed.svg)",
		"| speed, MB/s | 200 (100–300) | 400 (300–500) ×2.00 |",
		"culvert failed in 1 rounds: `it 'broke' here`",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "another") {
		t.Error("a column of nothing")
	}
}

func TestSVGIsXML(t *testing.T) {
	plot := &Plot{Title: "Speed & more", Metric: "speed", Cases: []string{"bulk <down>", "missing"}, Ways: ways()}
	svg := plot.SVG(some())
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
	}
	if !strings.Contains(svg, "400 MB/s  ×2.00") {
		t.Errorf("no value in\n%s", svg)
	}
	plot.Metric = "nothing"
	if svg := plot.SVG(some()); svg != "" {
		t.Errorf("a plot of nothing: %s", svg)
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	file, levers := filepath.Join(dir, "page.md"), filepath.Join(dir, "levers.md")
	read := func() string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if err := Write(file, "one\n", levers); err != nil {
		t.Fatal(err)
	}
	if got, want := read(), head+"one\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if err := os.WriteFile(levers, []byte("## By hand\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(file, "two", levers); err != nil {
		t.Fatal(err)
	}
	if got, want := read(), head+"two\n\n## By hand\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if err := Write(file, "three", dir); err == nil || strings.Contains(read(), "three") {
		t.Errorf("levers that cannot be read: %v", err)
	}
}
