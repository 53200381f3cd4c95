package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// pattern is a name in which "*" stands for any characters, also none.
type pattern string

// matches takes time in proportion to the product of both lengths at worst, which
// are bounded.
func (p pattern) matches(s string) bool {
	star, retry := -1, 0 // the last "*", and where in s what follows it is tried next
	i, k := 0, 0
	for k < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, retry = i, k
			i++
		case i < len(p) && p[i] == s[k]:
			i, k = i+1, k+1
		case star >= 0:
			retry++
			i, k = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(string(p[i:]), "*") == ""
}

func anyOf(ps []pattern, s string) bool {
	return slices.ContainsFunc(ps, func(p pattern) bool { return p.matches(s) })
}

func anyInCommon(ps []pattern, all []string) bool {
	return len(ps) > 0 && slices.ContainsFunc(all, func(s string) bool { return anyOf(ps, s) })
}

// Range is the ports From to To, both included, from 1 to 65535.
type Range struct{ From, To uint16 }

// Ports are ranges in rising order that do not touch.
type Ports []Range

// maxRanges bounds the ranges of one list.
const maxRanges = 256

func all() Ports { return Ports{{1, 65535}} }

// ParsePorts reads a list of ports and ranges: "8080, 9000-9010". Of nothing but
// spaces it is nil. An empty item is an error.
func ParsePorts(list string) (Ports, error) {
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	var out Ports
	for item := range strings.SplitSeq(list, ",") {
		r, err := parseRange(item)
		if err != nil {
			return nil, err
		}
		if out = append(out, r); len(out) > maxRanges {
			return nil, fmt.Errorf("more than %d ports and ranges", maxRanges)
		}
	}
	return out.tidy(), nil
}

func parseRange(item string) (Range, error) {
	from, to, isRange := strings.Cut(strings.TrimSpace(item), "-")
	if !isRange {
		to = from
	}
	lo, err := parsePort(from)
	if err != nil {
		return Range{}, err
	}
	hi, err := parsePort(to)
	if err != nil {
		return Range{}, err
	}
	if hi < lo {
		return Range{}, fmt.Errorf("port range %q ends before it begins", clip(item))
	}
	return Range{lo, hi}, nil
}

func parsePort(s string) (uint16, error) {
	s = strings.TrimSpace(s)
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' { // 022 is another number to some
		return 0, fmt.Errorf("port %q is not a number from 1 to 65535", clip(s))
	}
	return uint16(n), nil
}

// clip bounds what of somebody's text is repeated to him.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "..."
	}
	return s
}

// tidy puts ranges in order and joins those that touch.
func (p Ports) tidy() Ports {
	slices.SortFunc(p, func(a, b Range) int { return int(a.From) - int(b.From) })
	var out Ports
	for _, r := range p {
		if last := len(out) - 1; last >= 0 && int(r.From) <= int(out[last].To)+1 {
			out[last].To = max(out[last].To, r.To)
			continue
		}
		out = append(out, r)
	}
	return out
}

// and returns the ports that are in both.
func (p Ports) and(q Ports) Ports {
	var out Ports
	for i, k := 0, 0; i < len(p) && k < len(q); {
		if r := (Range{max(p[i].From, q[k].From), min(p[i].To, q[k].To)}); r.From <= r.To {
			out = append(out, r)
		}
		if p[i].To < q[k].To {
			i++
		} else {
			k++
		}
	}
	return out
}

// minus returns the ports of p that are not in q.
func (p Ports) minus(q Ports) Ports {
	var out Ports
	for _, r := range p {
		from := int(r.From)
		for _, s := range q {
			if int(s.To) < from || s.From > r.To {
				continue
			}
			if int(s.From) > from {
				out = append(out, Range{uint16(from), s.From - 1})
			}
			from = int(s.To) + 1
		}
		if from <= int(r.To) {
			out = append(out, Range{uint16(from), r.To})
		}
	}
	return out
}

// String returns what ParsePorts reads.
func (p Ports) String() string {
	var b strings.Builder
	for i, r := range p {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(int(r.From)))
		if r.To != r.From {
			b.WriteString("-" + strconv.Itoa(int(r.To)))
		}
	}
	return b.String()
}

// clipped is String for a line that people read.
func (p Ports) clipped() string {
	const enough = 16
	if len(p) > enough {
		return p[:enough].String() + " and more"
	}
	return p.String()
}
