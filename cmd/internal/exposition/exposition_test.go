package exposition

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

const root = "../../.."

func TestPage(t *testing.T) {
	p := &Page{
		Version: "v1", Known: append([]Metric{
			{Name: "a_total", Type: "counter", Help: "What a is."},
			{Name: "b_seconds", Type: "histogram", Help: "What b is."},
		}, both()...),
		Rooms: []func(io.Writer){
			func(w io.Writer) { fmt.Fprint(w, "a_total{x=\"1\"} 1\na_total{x=\"2\"} 2\nunknown 3\n") },
			func(w io.Writer) {
				fmt.Fprint(w, "b_seconds_bucket{le=\"+Inf\"} 1\nb_seconds_sum 1\nb_seconds_count 1\nb_secondsx 1\n")
			},
		},
	}
	var b bytes.Buffer
	p.Write(&b)
	want := `# HELP a_total What a is.
# TYPE a_total counter
a_total{x="1"} 1
a_total{x="2"} 2
unknown 3
# HELP b_seconds What b is.
# TYPE b_seconds histogram
b_seconds_bucket{le="+Inf"} 1
b_seconds_sum 1
b_seconds_count 1
b_secondsx 1
# HELP culvert_build_info Always 1.
# TYPE culvert_build_info gauge
culvert_build_info{version="v1",go_version=`
	if !strings.HasPrefix(b.String(), want) {
		t.Errorf("%s\nwant\n%s", &b, want)
	}
	for _, name := range []string{"process_resident_memory_bytes ", "process_open_fds ", "go_goroutines "} {
		if !strings.Contains(b.String(), "\n"+name) {
			t.Errorf("nothing about the process: no %s", name)
		}
	}
}

// The names are what others of this field expect: base units, _total, and no type
// in them.
func TestConventions(t *testing.T) {
	for _, list := range [][]Metric{Relay(), Agent()} {
		seen := map[string]bool{}
		for _, m := range list {
			switch {
			case seen[m.Name]:
				t.Errorf("%s is there twice", m.Name)
			case m.Help == "" || !strings.HasSuffix(m.Help, ".") || strings.ContainsAny(m.Help, "\n\\"):
				t.Errorf("%s has no help: %q", m.Name, m.Help)
			case (m.Type == "counter") != strings.HasSuffix(m.Name, "_total"):
				t.Errorf("%s is a %s", m.Name, m.Type)
			case m.Type == "histogram" && !strings.HasSuffix(m.Name, "_seconds"):
				t.Errorf("%s has no unit", m.Name)
			case !slices.Contains([]string{"counter", "gauge", "histogram"}, m.Type):
				t.Errorf("%s is a %s", m.Name, m.Type)
			case regexp.MustCompile(`_(ms|milliseconds|minutes|kb|mb|gauge|counter|histogram|count|sum|bucket)(_|$)`).MatchString(m.Name):
				t.Errorf("%s: a unit that is none, or a word of Prometheus's own", m.Name)
			}
			seen[m.Name] = true
		}
	}
}

// Every metric that the source names is in the list, and the other way round.
func TestEveryMetricIsKnown(t *testing.T) {
	known := map[string]bool{}
	for _, m := range append(Relay(), Agent()...) {
		known[m.Name] = true
	}
	used := map[string]bool{"culvert_build_info": true}
	name := regexp.MustCompile(`^culvert_(relay|agent)_[a-z0-9_]+`)
	for _, dir := range []string{"agent", "cmd", "forward", "netns", "measure"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() && d.Name() == "exposition" {
				if err == nil {
					err = fs.SkipDir
				}
				return err
			}
			if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			for _, s := range stringsOf(t, path) {
				names := []string{name.FindString(s)}
				if strings.HasPrefix(s, "_tunnel_") { // relays and agents have it
					names = []string{"culvert_relay" + s, "culvert_agent" + s}
				}
				for _, m := range names {
					if m == "" {
						continue
					}
					if used[m] = true; !known[m] {
						t.Errorf("%s counts %s, which is not in cmd/internal/exposition: say there what it means", path, m)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for m := range known {
		if !used[m] {
			t.Errorf("%s is in cmd/internal/exposition, and nobody counts it", m)
		}
	}
}

// stringsOf returns the string literals of a file.
func stringsOf(t *testing.T, path string) (out []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			out = append(out, strings.Trim(lit.Value, "`\""))
		}
		return true
	})
	return out
}

// docs/metrics.md is the list.
func TestMetricsPage(t *testing.T) {
	path := filepath.Join(root, "docs/metrics.md")
	want := page()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("docs/metrics.md is not what the list says (%v): go test ./cmd/internal/exposition -update", err)
	}
}

func page() string {
	var b strings.Builder
	b.WriteString(`# Metrics

Relay and agent answer ` + "`/metrics`" + ` on ` + "`--health-listen`" + ` in the text format of Prometheus. Each has what is listed here and nothing else of its own; no label is
the name of a pod, a user, an address or anything else that others choose, so the number of series does not grow. This page is written from
` + "`cmd/internal/exposition`" + `, and tests hold it against the source and against what the programs answer.

Dashboard, alerts and what to do about them: [operations.md](operations.md#alerts).
`)
	table := func(title string, list []Metric) {
		fmt.Fprintf(&b, "\n## %s\n\n| name | type | labels | |\n|---|---|---|---|\n", title)
		for _, m := range list {
			help := m.Help
			if m.When != "" {
				help += " *Only when: " + m.When + ".*"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Type, m.Labels, help)
		}
	}
	table("Relay", Relay())
	table("Agent", Agent())
	b.WriteString(`
## The process

Both also say what every Go program says: ` + "`go_*`" + ` (goroutines, memory, garbage collection, scheduling) and ` + "`process_*`" + `, of which most used are
` + "`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`, `process_max_fds` and `process_start_time_seconds`" + `.
`)
	return b.String()
}
