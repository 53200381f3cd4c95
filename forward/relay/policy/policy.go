package policy

import (
	"cmp"
	"fmt"
)

// Policy is a list of rules. The zero value and nil refuse nothing but what pods
// refuse by themselves. It does not change after Parse.
type Policy struct {
	dryRun bool
	rules  []rule
}

// rule is one rule of a file. What is empty matches everything.
type rule struct {
	name          string
	line          int // in the file, from 1
	allow, dryRun bool
	reason        string
	users, groups []pattern
	namespaces    []pattern
	pods          []pattern
	labels        []label
	ports         Ports // nil: all
}

// label is one that a pod must have.
type label struct {
	key   string
	value pattern
}

// Request is what is decided on.
type Request struct {
	User           string
	Groups         []string
	Namespace, Pod string
	// About is what is known of the pod, nil if that is nothing. A rule about labels
	// does not match then; see Limits.NoLabels.
	About *Pod
	// Port is the port in the pod. 0 asks whether there is any that may be reached.
	Port uint16
}

// Decision is what came of a request.
type Decision struct {
	// Allowed is what counts: whether the stream may be.
	Allowed bool
	// Would is Allowed without any dry run.
	Would bool
	// Rule is the name of the rule that decided, "rule N" if it has none, with N from
	// 1, and Line where it begins in the file. Of a dry run it is the rule that would
	// have. Empty and 0: no rule matched, or the pod decided.
	Rule string
	Line int
	// Text says why the caller is refused, in one line; empty if he is not.
	Text string

	byPod bool
}

// Verdicts of a Decision, for logs and as labels of metrics.
const (
	Allow      = "allow"
	Deny       = "deny"
	WouldDeny  = "would-deny"  // allowed, as it is a dry run
	WouldAllow = "would-allow" // refused, as the rule that would allow it is a dry run
)

// Verdict returns Allow, Deny, WouldDeny or WouldAllow.
func (d *Decision) Verdict() string {
	switch {
	case d.Allowed && d.Would:
		return Allow
	case d.Allowed:
		return WouldDeny
	case d.Would:
		return WouldAllow
	}
	return Deny
}

// String returns the verdict and what it rests on, for a log: "deny: databases",
// "deny: the pod", and "" if nothing spoke against the stream or for it.
func (d *Decision) String() string {
	switch {
	case d.byPod:
		return d.Verdict() + ": the pod"
	case d.Rule == "":
		return ""
	}
	return d.Verdict() + ": " + d.Rule
}

// Why says what a decision rests on, for people: "databases, line 12".
func (d *Decision) Why() string {
	switch {
	case d.byPod:
		return "the pod's annotation " + Annotation
	case d.Rule == "":
		return "no rule matches"
	}
	return fmt.Sprintf("%s, line %d", d.Rule, d.Line)
}

// Len returns the number of rules.
func (p *Policy) Len() int {
	if p == nil {
		return 0
	}
	return len(p.rules)
}

// DryRun tells whether no rule is enforced.
func (p *Policy) DryRun() bool { return p != nil && p.dryRun }

// Decide decides on a request. p may be nil.
func (p *Policy) Decide(r *Request) Decision {
	ports := all()
	if r.Port != 0 {
		ports = Ports{{r.Port, r.Port}}
	}
	if text := r.About.refuses(r, ports); text != "" {
		return Decision{Text: text, byPod: true}
	}
	if r.About != nil && r.About.limited {
		ports = ports.and(r.About.ports)
	}
	would, by := p.first(r, ports, true)
	enforced, allowed := by, would
	switch {
	case p.DryRun():
		enforced, allowed = nil, true
	case p.tries():
		allowed, enforced = p.first(r, ports, false)
	}
	d := Decision{Allowed: allowed, Would: would}
	if would == allowed {
		by = enforced
	}
	if by != nil {
		d.Rule, d.Line = by.name, by.line
	}
	if !allowed {
		d.Text = refusal(r, enforced)
	}
	return d
}

// tries tells whether some rule is a dry run.
func (p *Policy) tries() bool {
	if p == nil {
		return false
	}
	for i := range p.rules {
		if p.rules[i].dryRun {
			return true
		}
	}
	return false
}

// first returns what the first rule that matches says of some port of ports, and
// that rule: allowed if one of them is let through. No rule allows.
func (p *Policy) first(r *Request, ports Ports, dry bool) (allowed bool, by *rule) {
	if p == nil {
		return true, nil
	}
	for i := range p.rules {
		one := &p.rules[i]
		if one.dryRun && !dry || !one.matches(r) {
			continue
		}
		touched := ports
		if one.ports != nil {
			touched = ports.and(one.ports)
		}
		if len(touched) == 0 {
			continue
		}
		if one.allow {
			return true, one
		}
		if ports, by = ports.minus(touched), one; len(ports) == 0 {
			return false, by
		}
	}
	return true, nil
}

// matches tells whether a rule is about a request, whatever its port.
func (one *rule) matches(r *Request) bool {
	if len(one.users)+len(one.groups) > 0 && !anyOf(one.users, r.User) && !anyInCommon(one.groups, r.Groups) {
		return false
	}
	if len(one.namespaces) > 0 && !anyOf(one.namespaces, r.Namespace) || len(one.pods) > 0 && !anyOf(one.pods, r.Pod) {
		return false
	}
	for i := range one.labels {
		value, has := r.About.label(one.labels[i].key)
		if !has || !one.labels[i].value.matches(value) {
			return false
		}
	}
	return true
}

func refusal(r *Request, by *rule) string {
	what := "any port"
	if r.Port != 0 {
		what = fmt.Sprintf("port %d", r.Port)
	}
	return fmt.Sprintf("the relay's policy does not let this user reach %s of pod %s in namespace %s (%s): %s",
		what, r.Pod, r.Namespace, by.name, cmp.Or(by.reason, "ask whoever runs the relay"))
}
