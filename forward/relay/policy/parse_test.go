package policy

import (
	"fmt"
	"strings"
	"testing"
)

// A broken file says where and why.
func TestBrokenFiles(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "the file is empty",
		"# nothing\n":                          "the file is empty",
		"null":                                 "line 1: the file is not a list of fields",
		"[]":                                   "line 1: the file is not a list of fields",
		"dryRun: true":                         "there is no list of rules",
		"rules:":                               "line 1: rules is not a list",
		"rules: {}":                            "line 1: rules is not a list",
		"rule: []":                             `line 1: the file has no field "rule"`,
		"rules: []\nrules: []":                 `line 2: "rules" is there twice`,
		"rules: []\n---\nrules: []":            "more than one document",
		"dryRun: maybe\nrules: []":             "line 1: dryRun is neither true nor false",
		"rules:\n- action: deny\n\t":           "line 2",
		"rules:\n- deny":                       "line 2: a rule is not a list of fields",
		"rules:\n- name: a":                    "line 2: the rule has no action",
		"rules:\n- action: refuse":             `line 2: action "refuse" is neither allow nor deny`,
		"rules:\n- action: deny\n  user: [a]":  `line 3: a rule has no field "user"`,
		"rules:\n- action: deny\n  users: []":  "line 3: users is empty",
		"rules:\n- action: deny\n  users: ann": "line 3: users is not a list",
		"rules:\n- action: deny\n  users:\n  - ann\n  - ''":                                                         "line 5: a name in users is empty",
		"rules:\n- action: deny\n  namespaces: [no]\n":                                                              "",
		"rules:\n- action: deny\n  namespaces: [true]":                                                              "line 3: a name in namespaces is not a text; put it in quotes",
		"rules:\n- action: deny\n  namespaces: [12]":                                                                "line 3: a name in namespaces is not a text",
		"rules:\n- action: deny\n  labels: {}":                                                                      "line 3: labels is empty",
		"rules:\n- action: deny\n  labels: {a: 1}":                                                                  "line 3: a name in labels is not a text",
		"rules:\n- action: deny\n  labels: [a]":                                                                     "line 3: labels is not a list of fields",
		"rules:\n- action: deny\n  ports: []":                                                                       "line 3: ports is empty",
		"rules:\n- action: deny\n  ports: 80":                                                                       "line 3: ports is not a list",
		"rules:\n- action: deny\n  ports: [0]":                                                                      `line 3: port "0" is not a number from 1 to 65535`,
		"rules:\n- action: deny\n  ports: [08]":                                                                     "line 3: a port is neither a number nor a range",
		"rules:\n- action: deny\n  ports: [022]":                                                                    `line 3: port "022"`,
		"rules:\n- action: deny\n  ports: [0x50]":                                                                   `line 3: port "0x50"`,
		"rules:\n- action: deny\n  ports: [65536]":                                                                  `line 3: port "65536"`,
		"rules:\n- action: deny\n  ports: [http]":                                                                   `line 3: port "http"`,
		"rules:\n- action: deny\n  ports: [80.5]":                                                                   "line 3: a port is neither a number nor a range",
		"rules:\n- action: deny\n  ports: [90-80]":                                                                  `line 3: port range "90-80" ends before it begins`,
		"rules:\n- {name: a, action: deny}\n- {name: a, action: deny}":                                              `line 3: a rule in line 2 is named "a" as well`,
		"rules:\n- &x {action: deny}\n- *x":                                                                         "line 2: a rule is not a list of fields (or uses anchors)",
		"rules: &x\n- action: deny":                                                                                 "is not a list",
		"rules:\n- action: deny\n  reason: \"a\\nb\"":                                                               "line 3: reason has characters that cannot be shown",
		"rules:\n- action: deny\n  reason: " + strings.Repeat("x", maxPattern+1):                                    "line 3: reason is longer",
		"rules:\n- action: deny\n  pods: [" + strings.Repeat("x", maxPattern+1) + "]":                               "line 3: a name in pods is longer",
		"rules:\n- action: deny\n  ports: [" + strings.Repeat("1,", maxRanges+1) + "]":                              "line 3: more than 256 ports",
		"rules:\n" + strings.Repeat("- action: deny\n", MaxRules+1):                                                 "line 1002: more than 1000 rules",
		"rules:\n" + strings.Repeat("- {action: deny, pods: ["+strings.Repeat("x,", 100)+"]}\n", maxPatterns/100+1): "more than 20000 names",
		strings.Repeat("#", MaxFile+1):                                                                              "longer than",
		"rules: [{action: deny, users: [" + strings.Repeat("[", 20000) + "]}]":                                      "exceeded max depth",
		"a: &a [x, x]\nb: &b [*a, *a]\nrules: []":                                                                   `line 1: the file has no field "a"`,
	} {
		_, err := Parse([]byte(text), Limits{})
		switch {
		case want == "" && err != nil:
			t.Errorf("%.60q: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%.60q: got %v, want %s", text, err, want)
		case err != nil && (strings.Contains(err.Error(), "\n") || len(err.Error()) > 300):
			t.Errorf("%.60q: no line for a log: %q", text, err)
		}
	}
	if _, err := Parse([]byte("rules:\n- action: deny\n  labels: {a: b}"), Limits{NoLabels: true}); err == nil ||
		!strings.HasPrefix(err.Error(), "line 3: this relay does not learn the labels") {
		t.Errorf("labels that never match are taken: %v", err)
	}
}

func TestExpectations(t *testing.T) {
	p := mustParse(t, example)
	es, err := ParseExpectations([]byte(`
tests:
- {name: good, user: ann, namespace: team-a, pod: db, labels: {app: postgres}, port: 5432, expect: deny, rule: databases}
- {name: any port, user: ann, namespace: team-a, pod: db, expect: allow}
- {name: pod, user: ann, namespace: team-a, pod: db, allowedPorts: "80", port: 81, expect: deny}
- {name: wrong verdict, user: ann, groups: [ops], namespace: x, pod: y, port: 6060, expect: deny}
- {name: wrong rule, user: ann, namespace: x, pod: y, port: 6060, expect: deny, rule: databases}
`))
	if err != nil || len(es) != 5 {
		t.Fatalf("%d, %v", len(es), err)
	}
	want := []string{"", "", "", "want deny, got allow (admins, line 3)", `want deny by "databases", got it by debug, line 20`}
	for i := range es {
		if got := es[i].Check(p); got != want[i] {
			t.Errorf("%s (line %d): %q, want %q", es[i].Name, es[i].Line, got, want[i])
		}
	}
	for text, want := range map[string]string{
		"tests: []":                               "there are no tests",
		"tests: [{expect: maybe}]":                "line 1: the test has to expect",
		"tests: [{user: a}]":                      "line 1: the test has to expect",
		"tests: [{port: 0, expect: deny}]":        `line 1: port "0"`,
		"tests: [{port: [1], expect: deny}]":      `line 1: port ""`,
		"tests: [{users: [a], expect: deny}]":     `line 1: a test has no field "users"`,
		"tests: [{labels: {a: 1}, expect: deny}]": "line 1: a label is not a text",
	} {
		if _, err := ParseExpectations([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("dryRun: true\nrules: []"))
	f.Add([]byte("rules: [{action: deny, labels: {a: '*'}, ports: [1-65535]}]"))
	f.Add([]byte("tests: [{user: a, expect: deny, port: 80}]"))
	f.Add([]byte("? !!binary x\n: &a [*a]\n--- |\n x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if es, err := ParseExpectations(b); err == nil {
			for i := range es {
				_ = es[i].Check(nil)
			}
		}
		p, err := Parse(b, Limits{})
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Fatalf("more than a line: %q", err)
			}
			return
		}
		for _, port := range []uint16{0, 1, 80, 65535} {
			r := Request{User: "ann", Groups: []string{"dev"}, Namespace: "ns", Pod: "web", Port: port}
			d := p.Decide(&r)
			if d.Allowed != (d.Text == "") {
				t.Fatalf("%v and %q", d.Allowed, d.Text)
			}
			if p.DryRun() && !d.Allowed {
				t.Fatal("a dry run refuses")
			}
			_ = fmt.Sprint(d.String(), d.Why())
		}
	})
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"8080, 9000-9010", "", "1-65535", "0", "80,,", "99999", "-", " 1 - 2 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePorts(s)
		if err != nil {
			return
		}
		again, err := ParsePorts(p.String())
		if err != nil || again.String() != p.String() {
			t.Fatalf("%q became %q and that %q, %v", s, p, again, err)
		}
		if rest := all().minus(p); len(rest.and(p)) > 0 || len(p.minus(all())) > 0 {
			t.Fatalf("%q and its rest %q overlap", p, rest)
		}
	})
}
