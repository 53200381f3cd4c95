package policy

import (
	"fmt"
	"strings"
	"testing"
)

const example = `
rules:
- name: admins
  groups: [ops, "*-admins"]
  action: allow
- name: databases
  namespaces: ["team-*"]
  labels: {app: postgres}
  ports: [5432]
  action: deny
  reason: ask the database team
- users: ["system:serviceaccount:ci:*"]
  namespaces: [ci]
  action: allow
- name: trial
  pods: ["web-*"]
  ports: [9000-9010, "9443"]
  action: deny
  dryRun: true
- name: debug
  ports: [6060]
  action: deny
- name: let-trial
  users: [bob]
  ports: [7000]
  action: allow
  dryRun: true
- name: seven
  ports: [7000-7999]
  action: deny
`

func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFirstRuleThatMatchesDecides(t *testing.T) {
	p := mustParse(t, example)
	db := AboutPod(map[string]string{"app": "postgres"}, nil)
	for name, tc := range map[string]struct {
		r          Request
		want, rule string
		line       int
	}{
		"nobody spoke":          {Request{User: "ann", Namespace: "x", Pod: "y", Port: 80}, Allow, "", 0},
		"deny":                  {Request{User: "ann", Namespace: "team-a", Pod: "db", About: db, Port: 5432}, Deny, "databases", 6},
		"another port":          {Request{User: "ann", Namespace: "team-a", Pod: "db", About: db, Port: 5433}, Allow, "", 0},
		"another label":         {Request{User: "ann", Namespace: "team-a", Pod: "db", About: AboutPod(map[string]string{"app": "pg"}, nil), Port: 5432}, Allow, "", 0},
		"labels are not known":  {Request{User: "ann", Namespace: "team-a", Pod: "db", Port: 5432}, Allow, "", 0},
		"another namespace":     {Request{User: "ann", Namespace: "myteam-a", Pod: "db", About: db, Port: 5432}, Allow, "", 0},
		"a group before":        {Request{User: "ann", Groups: []string{"x", "db-admins"}, Namespace: "team-a", About: db, Port: 5432}, Allow, "admins", 3},
		"rule without a name":   {Request{User: "system:serviceaccount:ci:bot", Namespace: "ci", Port: 6060}, Allow, "rule 3", 12},
		"user elsewhere":        {Request{User: "system:serviceaccount:ci:bot", Namespace: "cd", Port: 6060}, Deny, "debug", 20},
		"dry run of a rule":     {Request{User: "ann", Namespace: "x", Pod: "web-1", Port: 9005}, WouldDeny, "trial", 15},
		"number in quotes":      {Request{User: "ann", Namespace: "x", Pod: "web-1", Port: 9443}, WouldDeny, "trial", 15},
		"dry run that allows":   {Request{User: "bob", Namespace: "x", Pod: "y", Port: 7000}, WouldAllow, "let-trial", 23},
		"behind it":             {Request{User: "bob", Namespace: "x", Pod: "y", Port: 7001}, Deny, "seven", 28},
		"some port is left":     {Request{User: "ann", Namespace: "x", Pod: "y"}, Allow, "", 0},
		"any port of an admin":  {Request{User: "ann", Groups: []string{"ops"}, Namespace: "x", Pod: "y"}, Allow, "admins", 3},
		"group is no user":      {Request{User: "ops", Namespace: "x", Pod: "y", Port: 6060}, Deny, "debug", 20},
		"range ends where said": {Request{User: "ann", Namespace: "x", Pod: "y", Port: 8000}, Allow, "", 0},
	} {
		d := p.Decide(&tc.r)
		if d.Verdict() != tc.want || d.Rule != tc.rule || d.Line != tc.line {
			t.Errorf("%s: %s, line %d, want %s %q, line %d", name, d.String(), d.Line, tc.want, tc.rule, tc.line)
		}
		if (d.Text == "") != d.Allowed {
			t.Errorf("%s: allowed %v with text %q", name, d.Allowed, d.Text)
		}
	}
	d := p.Decide(&Request{User: "ann", Namespace: "team-a", Pod: "db", About: db, Port: 5432})
	if want := "the relay's policy does not let this user reach port 5432 of pod db in namespace team-a (databases): ask the database team"; d.Text != want {
		t.Errorf("got %q", d.Text)
	}
}

// A door that knows no port yet turns away who could reach none.
func TestWhetherAnyPortIsLeft(t *testing.T) {
	for name, tc := range map[string]struct {
		rules, want string
		about       *Pod
	}{
		"all denied":           {"[{action: deny}]", Deny, nil},
		"denied in parts":      {"[{ports: [1-100], action: deny}, {ports: [200-65535], action: deny}, {ports: [101-199], action: deny}]", Deny, nil},
		"one is left":          {"[{ports: [1-100], action: deny}, {ports: [102-65535], action: deny}]", Allow, nil},
		"allowed before":       {"[{ports: [80], action: allow}, {action: deny}]", Allow, nil},
		"allowed too late":     {"[{ports: [80], action: deny}, {ports: [80], action: allow}, {action: deny}]", Deny, nil},
		"pod names another":    {"[{ports: [80], action: allow}, {action: deny}]", Deny, AboutPod(nil, map[string]string{Annotation: "81"})},
		"pod names the denied": {"[{ports: [80], action: deny}]", Deny, AboutPod(nil, map[string]string{Annotation: "80"})},
		"pod names more":       {"[{ports: [80], action: deny}]", Allow, AboutPod(nil, map[string]string{Annotation: "80,81"})},
		"dry run":              {"[{action: deny, dryRun: true}]", WouldDeny, nil},
	} {
		d := mustParse(t, "rules: "+tc.rules).Decide(&Request{User: "u", Namespace: "n", Pod: "p", About: tc.about})
		if d.Verdict() != tc.want {
			t.Errorf("%s: %s", name, d.String())
		}
	}
}

func TestDryRunOfAFileEnforcesNothing(t *testing.T) {
	p := mustParse(t, "dryRun: true\n"+example)
	d := p.Decide(&Request{User: "ann", Namespace: "x", Pod: "y", Port: 6060})
	if !d.Allowed || d.Verdict() != WouldDeny || d.Rule != "debug" || d.String() != "would-deny: debug" || d.Text != "" || !p.DryRun() {
		t.Errorf("%+v", d)
	}
	// What a pod says of itself is no rule of the file.
	d = p.Decide(&Request{Port: 80, About: AboutPod(nil, map[string]string{Annotation: "81"})})
	if d.Allowed || d.String() != "deny: the pod" {
		t.Errorf("%+v", d)
	}
}

func TestAPodNamesItsPorts(t *testing.T) {
	for text, tc := range map[string]struct{ ok, not []uint16 }{
		"8080, 9000-9010": {[]uint16{8080, 9000, 9010}, []uint16{8079, 8081, 8999, 9011, 1, 65535}},
		" 1-65535 ":       {[]uint16{1, 65535}, nil},
		"":                {nil, []uint16{80}},
		"http":            {nil, []uint16{80}},
		"80,":             {nil, []uint16{80}},
		"080":             {nil, []uint16{80}},
		"90-80":           {nil, []uint16{80, 90}},
		"0":               {nil, []uint16{80}},
		"80;443":          {nil, []uint16{80}},
		"70000":           {nil, []uint16{80}},
		"80\n443":         {nil, []uint16{80, 443}},
		"80" + strings.Repeat(" ", maxAnnotation): {nil, []uint16{80}},
	} {
		about := AboutPod(nil, map[string]string{Annotation: text})
		for _, port := range tc.ok {
			if d := (*Policy)(nil).Decide(&Request{About: about, Port: port}); !d.Allowed {
				t.Errorf("%.40q refuses %d: %s", text, port, d.Text)
			}
		}
		for _, port := range tc.not {
			d := (*Policy)(nil).Decide(&Request{Namespace: "ns", Pod: "web", About: about, Port: port})
			if d.Allowed || !strings.Contains(d.Text, Annotation) || !strings.Contains(d.Text, "web in namespace ns") {
				t.Errorf("%.40q and %d: %q", text, port, d.Text)
			}
		}
	}
	if d := (*Policy)(nil).Decide(&Request{About: AboutPod(nil, map[string]string{"other": "1"}), Port: 80}); !d.Allowed || d.String() != "" {
		t.Error("refused without an annotation")
	}
}

func TestPatterns(t *testing.T) {
	for _, tc := range []struct {
		pattern, s string
		want       bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"a", "", false}, {"*", "", true}, {"*", "a/b:c", true},
		{"a*", "a", true}, {"a*", "ba", false}, {"*a", "ba", true}, {"*a", "ab", false}, {"a*c", "abbc", true},
		{"a*c", "abcb", false}, {"a*b*c", "aXbXbXc", true}, {"**", "x", true}, {"a?c", "abc", false}, {"[a]", "a", false},
		{"*aab", strings.Repeat("a", 50) + "b", true}, {"", "", true}, {"", "a", false},
	} {
		if got := pattern(tc.pattern).matches(tc.s); got != tc.want {
			t.Errorf("%q matches %q: %v", tc.pattern, tc.s, got)
		}
	}
}

func TestPorts(t *testing.T) {
	p, err := ParsePorts("10-20, 5, 21, 15-16")
	if err != nil || p.String() != "5, 10-21" {
		t.Fatalf("%s, %v", p, err)
	}
	for _, tc := range []struct{ a, b, and, minus string }{
		{"1-65535", "80", "80", "1-79, 81-65535"},
		{"80", "1-65535", "80", ""},
		{"1-10, 20-30", "5-25", "5-10, 20-25", "1-4, 26-30"},
		{"1-10", "11-20", "", "1-10"},
		{"65535", "65535", "65535", ""},
		{"1-5", "1, 3, 5", "1, 3, 5", "2, 4"},
	} {
		a, _ := ParsePorts(tc.a)
		b, _ := ParsePorts(tc.b)
		if a.and(b).String() != tc.and || a.minus(b).String() != tc.minus {
			t.Errorf("%s with %s: %q, %q", a, b, a.and(b), a.minus(b))
		}
	}
	long := strings.TrimSuffix(strings.Repeat("1,", maxRanges+1), ",")
	if _, err := ParsePorts(long); err == nil {
		t.Error("any number of ranges is taken")
	}
	several := make([]string, 40)
	for i := range several {
		several[i] = fmt.Sprint(2 + 2*i)
	}
	many, err := ParsePorts(strings.Join(several, ","))
	if err != nil || !strings.HasSuffix(many.clipped(), " and more") {
		t.Errorf("%s, %v", many.clipped(), err)
	}
}
