package watch

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

const (
	rulesFile     = "../chart/files/alerts.yaml"
	dashboardFile = "../chart/files/dashboard.json"
	runbooks      = "https://github.com/culvert-k8s/culvert/blob/main/docs/operations.md#"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// alerts returns all rules of the file, which promtool check rules takes.
func alerts(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile(rulesFile, false, model.UTF8Validation)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var all []rulefmt.Rule
	for _, g := range groups.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// Every alert says how bad it is, what is wrong and where to read on, and there it is
// spoken of.
func TestAlertsLeadSomewhere(t *testing.T) {
	sections := sections(t)
	seen := map[string]bool{}
	for _, r := range alerts(t) {
		if r.Record != "" || !strings.HasPrefix(r.Alert, "Culvert") || seen[r.Alert] {
			t.Errorf("%s%s: no alert of Culvert, or there twice", r.Record, r.Alert)
		}
		seen[r.Alert] = true
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) || len(r.Labels) != 1 {
			t.Errorf("%s: labels %v", r.Alert, r.Labels)
		}
		for _, note := range []string{"summary", "description"} {
			if !strings.HasSuffix(r.Annotations[note], ".") {
				t.Errorf("%s: %s %q is no sentence", r.Alert, note, r.Annotations[note])
			}
		}
		heading, ours := strings.CutPrefix(r.Annotations["runbook_url"], runbooks)
		if !ours || !strings.Contains(sections[heading], "`"+r.Alert+"`") {
			t.Errorf("%s: nothing about it at %s", r.Alert, r.Annotations["runbook_url"])
		}
	}
	for _, name := range regexp.MustCompile("`(Culvert[A-Za-z]+)`").FindAllStringSubmatch(read(t, "../../docs/operations.md"), -1) {
		if !seen[name[1]] {
			t.Errorf("docs/operations.md speaks of an alert %s that there is not", name[1])
		}
	}
}

// sections returns the sections of docs/operations.md by the anchors of their headings.
func sections(t *testing.T) map[string]string {
	t.Helper()
	odd := regexp.MustCompile(`[^a-z0-9 _-]`)
	out, at, code := map[string]string{}, "", false
	for line := range strings.Lines(read(t, "../../docs/operations.md")) {
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		if strings.HasPrefix(line, "#") && !code {
			at = strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
			at = strings.ReplaceAll(odd.ReplaceAllString(at, ""), " ", "-")
		}
		out[at] += line
	}
	return out
}

// The dashboard asks for what there is, as the alerts do: every metric is one of
// docs/metrics.md, with labels that it has.
func TestMetricsExist(t *testing.T) {
	known := documented(t)
	asked := map[string]string{}
	for _, r := range alerts(t) {
		asked["alert "+r.Alert] = r.Expr
	}
	maps.Copy(asked, panels(t))
	if len(asked) < 50 {
		t.Fatalf("only %d expressions", len(asked))
	}
	for name, expr := range asked {
		for _, wrong := range known.check(expr) {
			t.Errorf("%s: %s", name, wrong)
		}
	}
}

// The check of names finds what is wrong.
func TestMetricsThatDoNotExist(t *testing.T) {
	known := documented(t)
	for expr, want := range map[string]string{
		`culvert_relay_nodez`:                                      "culvert_relay_nodez is not in docs/metrics.md",
		`culvert_relay_nodes_total`:                                "culvert_relay_nodes_total is not",
		`culvert_relay_streams_bucket`:                             "culvert_relay_streams_bucket is not",
		`sum by (user) (culvert_relay_streams_total)`:              "no metric here has the label user",
		`sum by (door) (culvert_relay_nodes)`:                      "no metric here has the label door",
		`culvert_relay_nodes{code="ok"}`:                           "culvert_relay_nodes has no label code",
		`culvert_relay_streams_total{code="okay"}`:                 "culvert_relay_streams_total has no code okay",
		`culvert_relay_audit_dropped_total{reason=~"closed|gone"}`: "has no reason gone",
		`culvert_relay_nodes +`:                                    "parse error",
		`rate(culvert_relay_nodes[5m])`:                            "rate of culvert_relay_nodes, a gauge",
	} {
		if got := strings.Join(known.check(expr), "; "); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}

// panels returns the expressions of the dashboard, with what Grafana would put in.
func panels(t *testing.T) map[string]string {
	t.Helper()
	var board struct {
		UID    string
		Panels []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, RefID string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, dashboardFile)), &board); err != nil {
		t.Fatal(err)
	}
	put := strings.NewReplacer("$__rate_interval", "5m", "$cluster", ".*", "$relay", ".*")
	out, ids := map[string]string{}, map[int]bool{}
	for i, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("panel %d, %q: an id that is there twice, or it shows nothing", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range board.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H || a.X+a.W > 24 {
				t.Errorf("panels %q and %q overlap", p.Title, q.Title)
			}
		}
		for _, q := range p.Targets {
			out["panel "+p.Title+" "+q.RefID] = put.Replace(q.Expr)
		}
	}
	return out
}

// metric is one of docs/metrics.md.
type metric struct {
	kind   string
	labels map[string][]string // values, nil: not said
	text   string
}

type metrics map[string]metric

// attached are the labels that whoever scrapes puts on every series.
func attached() []string { return []string{"cluster", "namespace", "pod", "node", "instance", "job"} }

// documented reads docs/metrics.md, which tests hold against the programs, and the
// codes of the protocol.
func documented(t *testing.T) metrics {
	t.Helper()
	page := read(t, "../../docs/metrics.md")
	out := metrics{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (\\w+) \\| (.*?) \\| (.*) \\|$").FindAllStringSubmatch(page, -1) {
		m := metric{kind: row[2], labels: map[string][]string{}, text: row[4]}
		for part := range strings.SplitSeq(row[3], ";") {
			name, values, said := strings.Cut(strings.TrimSpace(part), ":")
			for i, one := range strings.Split(name, ", ") {
				if one != "" {
					m.labels[one] = nil
				}
				if said && i == 0 && !strings.Contains(name, ",") {
					m.labels[one] = strings.Split(strings.TrimSpace(values), ", ")
				}
			}
		}
		out[row[1]] = m
	}
	_, process, _ := strings.Cut(page, "## The process")
	for _, name := range regexp.MustCompile("`(process_[a-z_]+)`").FindAllStringSubmatch(process, -1) {
		kind := "gauge"
		if strings.HasSuffix(name[1], "_total") {
			kind = "counter"
		}
		out[name[1]] = metric{kind: kind}
	}
	if len(out) < 60 {
		t.Fatalf("only %d metrics in docs/metrics.md", len(out))
	}
	var codes []string
	for _, row := range regexp.MustCompile(`(?m)^\| \d+ \| ([a-z-]+) \|`).FindAllStringSubmatch(read(t, "../../proto/PROTOCOL.md"), -1) {
		codes = append(codes, row[1])
	}
	if len(codes) < 15 {
		t.Fatalf("only %d codes in proto/PROTOCOL.md", len(codes))
	}
	for _, m := range out {
		for _, label := range []string{"code", "result", "reason"} {
			if values, there := m.labels[label]; there && values == nil {
				m.labels[label] = append(append(slices.Clone(codes), "unknown"), regexp.MustCompile(`[a-z][a-z-]+`).FindAllString(m.text, -1)...)
			}
		}
	}
	return out
}

// check returns what is wrong with the names in an expression.
func (all metrics) check(expr string) (wrong []string) {
	e, err := parser.ParseExpr(expr)
	if err != nil {
		return []string{"parse error: " + err.Error()}
	}
	has := attached()
	for _, s := range parser.ExtractSelectors(e) {
		name := ""
		for _, m := range s {
			if m.Name == model.MetricNameLabel {
				name = m.Value
			}
		}
		m, there := all.find(name)
		if !there {
			wrong = append(wrong, name+" is not in docs/metrics.md")
			continue
		}
		for label := range m.labels {
			has = append(has, label)
		}
		if strings.HasSuffix(name, "_bucket") {
			has = append(has, "le")
		}
		wrong = append(wrong, m.matchers(name, s)...)
	}
	parser.Inspect(e, func(node parser.Node, _ []parser.Node) error {
		var used []string
		switch n := node.(type) {
		case *parser.AggregateExpr:
			used = n.Grouping
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				used = n.VectorMatching.MatchingLabels
			}
		case *parser.Call:
			wrong = append(wrong, all.rates(n)...)
		}
		for _, label := range used {
			if !slices.Contains(has, label) {
				wrong = append(wrong, "no metric here has the label "+label)
			}
		}
		return nil
	})
	return wrong
}

// find returns the metric that a series is of.
func (all metrics) find(series string) (metric, bool) {
	if m, ok := all[series]; ok && m.kind != "histogram" {
		return m, true
	}
	for _, part := range []string{"_bucket", "_sum", "_count"} {
		if whole, ok := strings.CutSuffix(series, part); ok && all[whole].kind == "histogram" {
			return all[whole], true
		}
	}
	return metric{}, false
}

// matchers returns the labels and values in a selector that the metric has not.
func (m metric) matchers(name string, s []*labels.Matcher) (wrong []string) {
	for _, match := range s {
		if match.Name == model.MetricNameLabel || slices.Contains(attached(), match.Name) {
			continue
		}
		values, there := m.labels[match.Name]
		if !there {
			wrong = append(wrong, name+" has no label "+match.Name)
			continue
		}
		for value := range strings.SplitSeq(match.Value, "|") {
			if values != nil && !slices.Contains(values, value) {
				wrong = append(wrong, name+" has no "+match.Name+" "+value)
			}
		}
	}
	return wrong
}

// rates finds rates of what is no counter.
func (all metrics) rates(c *parser.Call) (wrong []string) {
	if c.Func.Name != "rate" && c.Func.Name != "increase" {
		return nil
	}
	for _, s := range parser.ExtractSelectors(c) {
		for _, m := range s {
			if m.Name == model.MetricNameLabel && all[m.Value].kind == "gauge" {
				wrong = append(wrong, c.Func.Name+" of "+m.Value+", a gauge")
			}
		}
	}
	return wrong
}
