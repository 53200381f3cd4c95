package kubectl

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// portsParam is what the API server calls the query parameter. Its kubelet calls
// the same one "port".
const portsParam = "ports"

const (
	// maxPorts is what a byte of channel number has room for, at two channels for
	// each port. Channel 255 is kept free upstream.
	maxPorts = 127
	// maxBase64Ports is the same for a channel number that is a character from '0'
	// on and must remain one of ASCII.
	maxBase64Ports = 39
)

// ParsePorts returns the ports that a query asks for: ports=80, repeated or with
// several separated by commas. Without the parameter it returns none and no error,
// since SPDY does not need it and ServeSession knows who does. The error is for the
// user, who gets it with 400.
func ParsePorts(query url.Values) ([]uint16, error) {
	var ports []uint16
	for _, value := range query[portsParam] {
		if value == "" {
			return nil, fmt.Errorf("query parameter %q cannot be empty", portsParam)
		}
		for field := range strings.SplitSeq(value, ",") {
			port, err := strconv.ParseUint(field, 10, 16)
			if err != nil {
				return nil, fmt.Errorf("unable to parse %q as a port: %w", value, err)
			}
			if port == 0 {
				return nil, fmt.Errorf("port %q must be > 0", value)
			}
			if len(ports) == maxPorts {
				return nil, fmt.Errorf("query parameter %q names more than %d ports", portsParam, maxPorts)
			}
			ports = append(ports, uint16(port))
		}
	}
	return ports, nil
}

// checkPorts checks what a native WebSocket protocol needs.
func checkPorts(ports []uint16, base64 bool) error {
	limit := maxPorts
	if base64 {
		limit = maxBase64Ports
	}
	switch {
	case len(ports) == 0:
		return fmt.Errorf("query parameter %q is required", portsParam)
	case len(ports) > limit:
		return fmt.Errorf("query parameter %q names %d ports, at most %d go into one WebSocket", portsParam, len(ports), limit)
	}
	return nil
}
