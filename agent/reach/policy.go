package reach

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Policy is what a node itself refuses, whatever a relay says. Who holds the power
// to enter pods has the last word. A refusal wins over a
// permission. The zero value lets everything but host-network pods pass.
type Policy struct {
	// AllowNamespaces, if not empty, are the only ones that may be reached.
	AllowNamespaces []string
	// DenyNamespaces may not be reached.
	DenyNamespaces []string
	// AllowPorts, if not empty, are the only ones that may be reached.
	AllowPorts []PortRange
	// DenyPorts may not be reached.
	DenyPorts []PortRange
	// AllowHostNetwork lets streams into pods that share the node's network,
	// and so to everything that listens on the node's own localhost.
	AllowHostNetwork bool
}

// PortRange is the ports From to To, both included.
type PortRange struct{ From, To uint16 }

// Check returns a *stream.Error with the code Policy if a stream to a port of
// the pod is refused.
func (p *Policy) Check(pod sandbox.Pod, port uint16) error {
	switch {
	case pod.HostNetwork && !p.AllowHostNetwork:
		return refused("pods with host networking may not be reached on this node")
	case slices.Contains(p.DenyNamespaces, pod.Namespace),
		len(p.AllowNamespaces) > 0 && !slices.Contains(p.AllowNamespaces, pod.Namespace):
		return refused(fmt.Sprintf("namespace %s may not be reached on this node", pod.Namespace))
	case contains(p.DenyPorts, port),
		len(p.AllowPorts) > 0 && !contains(p.AllowPorts, port):
		return refused(fmt.Sprintf("port %d may not be reached on this node", port))
	}
	return nil
}

func refused(text string) error { return &stream.Error{Code: stream.Policy, Text: text} }

func contains(ranges []PortRange, port uint16) bool {
	return slices.ContainsFunc(ranges, func(r PortRange) bool { return r.From <= port && port <= r.To })
}

// ParsePorts reads a list of ports and ranges: "80,443,8000-8100". An empty list
// is nil. An empty item is an error, so that a list of nothing but commas is not
// taken for no list, which permits everything.
func ParsePorts(list string) ([]PortRange, error) {
	if list == "" {
		return nil, nil
	}
	var out []PortRange
	for item := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(item, "-")
		if !isRange {
			to = from
		}
		lo, err := parsePort(from)
		if err != nil {
			return nil, err
		}
		hi, err := parsePort(to)
		if err != nil {
			return nil, err
		}
		if hi < lo {
			return nil, fmt.Errorf("port range %q ends before it begins", strings.TrimSpace(item))
		}
		out = append(out, PortRange{lo, hi})
	}
	return out, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q is not a number from 1 to 65535", s)
	}
	return uint16(n), nil
}
