package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Bounds of a file. A decision looks at every rule, so they bound its time too.
const (
	MaxFile     = 512 << 10 // bytes
	MaxRules    = 1000
	maxPatterns = 20000 // names and labels in all rules together
	maxPattern  = 512   // bytes of one
)

// Limits say what a file may not use.
type Limits struct {
	// NoLabels refuses rules about labels: for a relay that does not learn them,
	// where such a rule would never match.
	NoLabels bool
}

// Parse reads a policy. An error begins with the line of the fault, if it has one.
func Parse(file []byte, limits Limits) (*Policy, error) {
	root, err := document(file)
	if err != nil {
		return nil, err
	}
	ps := &parser{limits: limits}
	p := new(Policy)
	hasRules := false
	err = fields(root, "the file", map[string]func(*yaml.Node) error{
		"dryRun": func(n *yaml.Node) error { return boolean(n, "dryRun", &p.dryRun) },
		"rules": func(n *yaml.Node) error {
			hasRules = true
			return ps.rules(n, p)
		},
	})
	if err == nil && !hasRules {
		err = errors.New("there is no list of rules; write \"rules: []\" if nothing is to be refused")
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// document reads the one document of a file.
func document(file []byte) (*yaml.Node, error) {
	if len(file) > MaxFile {
		return nil, fmt.Errorf("longer than %d bytes", MaxFile)
	}
	d := yaml.NewDecoder(bytes.NewReader(file))
	var doc, more yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0:
		return nil, errors.New("the file is empty; write \"rules: []\" if nothing is to be refused")
	case err != nil:
		return nil, errors.New(strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", " "))
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one document in the file")
	}
	return doc.Content[0], nil
}

func wrong(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: "+format, append([]any{n.Line}, args...)...)
}

// fields reads a mapping whose keys are known.
func fields(n *yaml.Node, what string, known map[string]func(*yaml.Node) error) error {
	return mapping(n, what, func(key string, at, value *yaml.Node) error {
		read := known[key]
		if read == nil {
			return wrong(at, "%s has no field %q", what, clip(key))
		}
		return read(value)
	})
}

// mapping reads a mapping with keys that are strings, each once.
func mapping(n *yaml.Node, what string, each func(key string, at, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode || n.Anchor != "" {
		return wrong(n, "%s is not a list of fields (or uses anchors)", what)
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, err := str(n.Content[i], "a name of a field")
		if err != nil {
			return err
		}
		if seen[key] {
			return wrong(n.Content[i], "%q is there twice", clip(key))
		}
		seen[key] = true
		if err := each(key, n.Content[i], n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// list reads a list.
func list(n *yaml.Node, what string, each func(*yaml.Node) error) error {
	if n.Kind != yaml.SequenceNode || n.Anchor != "" {
		return wrong(n, "%s is not a list", what)
	}
	for _, item := range n.Content {
		if err := each(item); err != nil {
			return err
		}
	}
	return nil
}

// str reads a string. What YAML takes for something else must be in quotes: a
// namespace 0x10 or no is likelier a mistake than a name.
func str(n *yaml.Node, what string) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Anchor != "" || n.Tag != "!!str" {
		return "", wrong(n, "%s is not a text; put it in quotes", what)
	}
	if strings.ContainsFunc(n.Value, func(r rune) bool { return r == unicode.ReplacementChar || unicode.IsControl(r) }) {
		return "", wrong(n, "%s has characters that cannot be shown", what)
	}
	return n.Value, nil
}

func boolean(n *yaml.Node, what string, to *bool) error {
	if n.Kind != yaml.ScalarNode || n.Anchor != "" || n.Tag != "!!bool" {
		return wrong(n, "%s is neither true nor false", what)
	}
	*to = strings.EqualFold(n.Value, "true")
	return nil
}

// parser reads rules and counts what they consist of.
type parser struct {
	limits   Limits
	patterns int
}

func (ps *parser) rules(n *yaml.Node, p *Policy) error {
	names := make(map[string]int)
	return list(n, "rules", func(item *yaml.Node) error {
		if len(p.rules) == MaxRules {
			return wrong(item, "more than %d rules", MaxRules)
		}
		one := rule{line: item.Line}
		if err := ps.rule(item, &one); err != nil {
			return err
		}
		if one.name == "" {
			one.name = "rule " + strconv.Itoa(len(p.rules)+1)
		}
		if line, twice := names[one.name]; twice {
			return wrong(item, "a rule in line %d is named %q as well", line, clip(one.name))
		}
		names[one.name] = one.line
		p.rules = append(p.rules, one)
		return nil
	})
}

func (ps *parser) rule(n *yaml.Node, one *rule) error {
	action, said := "", n
	text := func(to *string, what string) func(*yaml.Node) error {
		return func(n *yaml.Node) (err error) {
			if *to, err = str(n, what); err == nil && len(*to) > maxPattern {
				err = wrong(n, "%s is longer than %d bytes", what, maxPattern)
			}
			return err
		}
	}
	err := fields(n, "a rule", map[string]func(*yaml.Node) error{
		"name":   text(&one.name, "name"),
		"reason": text(&one.reason, "reason"),
		"action": func(n *yaml.Node) error {
			said = n
			return text(&action, "action")(n)
		},
		"dryRun":     func(n *yaml.Node) error { return boolean(n, "dryRun", &one.dryRun) },
		"users":      ps.patternsInto(&one.users, "users"),
		"groups":     ps.patternsInto(&one.groups, "groups"),
		"namespaces": ps.patternsInto(&one.namespaces, "namespaces"),
		"pods":       ps.patternsInto(&one.pods, "pods"),
		"labels":     func(n *yaml.Node) error { return ps.labels(n, one) },
		"ports":      func(n *yaml.Node) error { return ports(n, one) },
	})
	if err != nil {
		return err
	}
	switch action {
	case "allow":
		one.allow = true
	case "deny":
	case "":
		return wrong(n, "the rule has no action: allow or deny")
	default:
		return wrong(said, "action %q is neither allow nor deny", clip(action))
	}
	return nil
}

// patternsInto reads a list of names. One without a name would match everything, as
// if it were not there, and was hardly meant to.
func (ps *parser) patternsInto(to *[]pattern, what string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		err := list(n, what, func(item *yaml.Node) error {
			p, err := ps.pattern(item, what)
			*to = append(*to, p)
			return err
		})
		if err == nil && len(*to) == 0 {
			err = wrong(n, "%s is empty; leave it out if the rule is for all", what)
		}
		return err
	}
}

func (ps *parser) pattern(n *yaml.Node, what string) (pattern, error) {
	s, err := str(n, "a name in "+what)
	switch {
	case err != nil:
		return "", err
	case s == "" && what != "labels":
		return "", wrong(n, "a name in %s is empty", what)
	case len(s) > maxPattern:
		return "", wrong(n, "a name in %s is longer than %d bytes", what, maxPattern)
	}
	if ps.patterns++; ps.patterns > maxPatterns {
		return "", wrong(n, "more than %d names and labels in all rules", maxPatterns)
	}
	return pattern(s), nil
}

func (ps *parser) labels(n *yaml.Node, one *rule) error {
	if ps.limits.NoLabels {
		return wrong(n, "this relay does not learn the labels of pods (it runs without --kube), so the rule would never match: take labels out")
	}
	err := mapping(n, "labels", func(key string, at, value *yaml.Node) error {
		if key == "" {
			return wrong(at, "a label has no name")
		}
		p, err := ps.pattern(value, "labels")
		one.labels = append(one.labels, label{key, p})
		return err
	})
	if err == nil && len(one.labels) == 0 {
		err = wrong(n, "labels is empty; leave it out if the rule is for all")
	}
	return err
}

// ports reads numbers, and texts with a number or a range.
func ports(n *yaml.Node, one *rule) error {
	err := list(n, "ports", func(item *yaml.Node) error {
		if item.Kind != yaml.ScalarNode || item.Anchor != "" || item.Tag != "!!int" && item.Tag != "!!str" {
			return wrong(item, "a port is neither a number nor a range")
		}
		r, err := parseRange(item.Value)
		if err != nil {
			return wrong(item, "%w", err)
		}
		if one.ports = append(one.ports, r); len(one.ports) > maxRanges {
			return wrong(item, "more than %d ports and ranges in one rule", maxRanges)
		}
		return nil
	})
	if err == nil && len(one.ports) == 0 {
		err = wrong(n, "ports is empty; leave it out if the rule is for all")
	}
	one.ports = one.ports.tidy()
	return err
}
