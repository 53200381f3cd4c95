package authority

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	// MaxHosts is how many names a serving certificate may be asked for.
	MaxHosts = 100

	maxHost = 253
)

// Hosts brings advertised addresses (host, host:port, IP literals; at most
// MaxHosts) into the form of a certificate: without ports, lower case, sorted,
// each once, the loopback always among them.
func Hosts(advertise []string) ([]string, error) {
	if len(advertise) > MaxHosts {
		return nil, fmt.Errorf("%d advertised names, at most %d are allowed", len(advertise), MaxHosts)
	}
	all := []string{"localhost", "127.0.0.1", "::1"}
	for _, a := range advertise {
		host := a
		if h, port, err := net.SplitHostPort(a); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
				return nil, fmt.Errorf("advertised name %q has a bad port", a)
			}
			host = h
		} else if strings.HasPrefix(a, "[") && strings.HasSuffix(a, "]") {
			host = a[1 : len(a)-1]
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() == "" {
			all = append(all, ip.Unmap().String())
			continue
		}
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		if !validHost(host) {
			return nil, fmt.Errorf("advertised name %q is neither a host name nor an IP address", a)
		}
		all = append(all, host)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// HostsOf returns the names of a certificate in the order of Hosts.
func HostsOf(cert *x509.Certificate) []string {
	all := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		all = append(all, ip.String())
	}
	slices.Sort(all)
	return all
}

// validHost accepts what certificates and dialers accept: labels of letters,
// digits, dashes and underscores.
func validHost(s string) bool {
	if len(s) > maxHost {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range label {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}
