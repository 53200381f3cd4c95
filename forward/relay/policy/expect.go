package policy

import (
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// MaxExpectations bounds the expectations of one file.
const MaxExpectations = 10000

// Expectation is a request and what should come of it.
type Expectation struct {
	Name    string
	Line    int // in its file
	Request Request
	Verdict string // as Decision.Verdict
	Rule    string // that decides; empty: any
}

// ParseExpectations reads a table of expectations, a YAML document:
//
//	tests:
//	- name: developers do not reach databases
//	  user: ann
//	  groups: [dev]
//	  namespace: team-a
//	  pod: db-0
//	  labels: {app: postgres}
//	  allowedPorts: "5432"      # the annotation of the pod; left out: it has none
//	  port: 5432                # left out: any port
//	  expect: deny              # allow, deny, would-deny or would-allow
//	  rule: databases           # may be left out
func ParseExpectations(file []byte) ([]Expectation, error) {
	root, err := document(file)
	if err != nil {
		return nil, err
	}
	var out []Expectation
	err = fields(root, "the file", map[string]func(*yaml.Node) error{
		"tests": func(n *yaml.Node) error {
			return list(n, "tests", func(item *yaml.Node) error {
				if len(out) == MaxExpectations {
					return wrong(item, "more than %d tests", MaxExpectations)
				}
				e, err := expectation(item)
				out = append(out, e)
				return err
			})
		},
	})
	if err == nil && len(out) == 0 {
		err = errors.New("there are no tests in the file")
	}
	return out, err
}

func expectation(n *yaml.Node) (Expectation, error) {
	e := Expectation{Line: n.Line}
	var labels, annotations map[string]string
	text := func(to *string, what string) func(*yaml.Node) error {
		return func(n *yaml.Node) (err error) {
			*to, err = str(n, what)
			return err
		}
	}
	allowed, limited := "", false
	err := fields(n, "a test", map[string]func(*yaml.Node) error{
		"name":      text(&e.Name, "name"),
		"user":      text(&e.Request.User, "user"),
		"namespace": text(&e.Request.Namespace, "namespace"),
		"pod":       text(&e.Request.Pod, "pod"),
		"expect":    text(&e.Verdict, "expect"),
		"rule":      text(&e.Rule, "rule"),
		"groups": func(n *yaml.Node) error {
			return list(n, "groups", func(item *yaml.Node) error {
				g, err := str(item, "a group")
				e.Request.Groups = append(e.Request.Groups, g)
				return err
			})
		},
		"labels": func(n *yaml.Node) error {
			labels = make(map[string]string)
			return mapping(n, "labels", func(key string, _, value *yaml.Node) (err error) {
				labels[key], err = str(value, "a label")
				return err
			})
		},
		"allowedPorts": func(n *yaml.Node) error {
			limited = true
			return text(&allowed, "allowedPorts")(n)
		},
		"port": func(n *yaml.Node) (err error) {
			e.Request.Port, err = parsePort(n.Value)
			if err != nil {
				err = wrong(n, "%w", err)
			}
			return err
		},
	})
	if limited {
		annotations = map[string]string{Annotation: allowed}
	}
	e.Request.About = AboutPod(labels, annotations)
	if err != nil {
		return e, err
	}
	switch e.Verdict {
	case Allow, Deny, WouldDeny, WouldAllow:
		return e, nil
	}
	return e, wrong(n, "the test has to expect %s, %s, %s or %s", Allow, Deny, WouldDeny, WouldAllow)
}

// Check returns what p does other than expected, in one line; empty if nothing.
func (e *Expectation) Check(p *Policy) string {
	d := p.Decide(&e.Request)
	switch {
	case d.Verdict() != e.Verdict:
		return fmt.Sprintf("want %s, got %s (%s)", e.Verdict, d.Verdict(), d.Why())
	case e.Rule != "" && e.Rule != d.Rule:
		return fmt.Sprintf("want %s by %q, got it by %s", e.Verdict, e.Rule, d.Why())
	}
	return ""
}
