package client

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Ports is one pair of ports: where to listen and what to reach.
type Ports struct {
	// Local is the port to listen on, 0 to 65535; 0 lets the system choose.
	Local uint16
	// Remote is the port inside the pod, 1 to 65535.
	Remote uint16
}

// String returns the pair in the grammar that [ParsePorts] reads.
func (p Ports) String() string { return fmt.Sprintf("%d:%d", p.Local, p.Remote) }

// PortSpec is one pair of ports as a person names it.
type PortSpec struct {
	// Local is the port to listen on, 0 to 65535; 0 lets the system choose.
	Local uint16
	// Same listens on the number that is behind Name; Local is 0 then.
	Same bool
	// Remote is the port to reach, 1 to 65535, 0 if it has a Name.
	Remote uint16
	// Name is the name of the port to reach, known to Kubernetes.
	Name string
}

// String returns what names the port to reach.
func (p PortSpec) String() string {
	if p.Name != "" {
		return p.Name
	}
	return strconv.Itoa(int(p.Remote))
}

// ParsePortSpec reads [LOCAL:]REMOTE as [ParsePorts] does, where REMOTE may be
// the name of a port. A name alone listens on the number behind it.
func ParsePortSpec(s string) (PortSpec, error) {
	local, remote, pair := strings.Cut(s, ":")
	if !pair {
		remote = s
	}
	if !isPortName(remote) {
		p, err := ParsePorts(s)
		return PortSpec{Local: p.Local, Remote: p.Remote}, err
	}
	spec := PortSpec{Name: remote, Same: !pair}
	if pair && local != "" {
		l, err := parsePort(local)
		if err != nil {
			return PortSpec{}, fmt.Errorf("port %q: local port %w", s, err)
		}
		spec.Local = l
	}
	return spec, nil
}

// maxPortName is what Kubernetes allows for the port of a service: a DNS label.
// For that of a container it allows less.
const maxPortName = 63

// isPortName tells a name from a number: it has a letter, and else digits and
// dashes.
func isPortName(s string) bool {
	letter := false
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
			letter = true
		case r != '-' && (r < '0' || r > '9'):
			return false
		}
	}
	return letter && len(s) <= maxPortName
}

// ParsePorts reads [LOCAL:]REMOTE as kubectl does: "5000" is the same port on
// both sides, "8888:5000" listens on 8888, ":5000" and "0:5000" let the system
// choose the local port. Every other form is an error that quotes s.
func ParsePorts(s string) (Ports, error) {
	local, remote, pair := strings.Cut(s, ":")
	if !pair {
		local, remote = s, s
	}
	if strings.Contains(remote, ":") {
		return Ports{}, fmt.Errorf("port %q: more than one colon, want [LOCAL:]REMOTE", s)
	}
	if pair && local == "" {
		local = "0"
	}
	r, err := parsePort(remote)
	if err != nil {
		return Ports{}, fmt.Errorf("port %q: remote port %w", s, err)
	}
	if r == 0 {
		return Ports{}, fmt.Errorf("port %q: remote port must be above 0", s)
	}
	l, err := parsePort(local)
	if err != nil {
		return Ports{}, fmt.Errorf("port %q: local port %w", s, err)
	}
	return Ports{Local: l, Remote: r}, nil
}

// ParsePort reads one remote port, 1 to 65535.
func ParsePort(s string) (uint16, error) {
	n, err := parsePort(s)
	if err != nil {
		return 0, fmt.Errorf("port %q %w", s, err)
	}
	if n == 0 {
		return 0, fmt.Errorf("port %q must be above 0", s)
	}
	return n, nil
}

var (
	errPortMissing = errors.New("is missing")
	errPortNumber  = errors.New("is not a number from 0 to 65535")
)

// parsePort takes plain decimal digits only. A name such as "http" is refused:
// the numbers behind names are known to Kubernetes, not to a standalone relay.
func parsePort(s string) (uint16, error) {
	if s == "" {
		return 0, errPortMissing
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, errPortNumber
	}
	return uint16(n), nil
}
