package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-k8s/culvert/cmd/internal/boot"
	"github.com/culvert-k8s/culvert/forward/relay"
)

// peerFlags say which relays serve the same nodes and clients.
type peerFlags struct {
	dns  string
	list boot.List
}

func (f *peerFlags) register(fl *flag.FlagSet) {
	fl.StringVar(&f.dns, "peers-from-dns", "", "`host[:port]` of all relays that serve the same nodes and clients, this one included; looked up every few seconds, and told to agents; default port that of --listen")
	fl.Var(&f.list, "peers", "`ip:port` of each of these relays, instead of --peers-from-dns; may be repeated, or separated by commas")
}

func (f *peerFlags) rules() []rule {
	rules := []rule{{f.dns != "" && len(f.list) > 0, "--peers and --peers-from-dns are two answers to one question: give one of them"}}
	for _, p := range f.list {
		a, err := netip.ParseAddrPort(p)
		rules = append(rules, rule{err != nil || a.Port() == 0, fmt.Sprintf("--peers %q is not ip:port: name relays by their addresses here, or give --peers-from-dns", p)})
	}
	return rules
}

// peers returns what the flags say, for a relay that listens there.
func (f *peerFlags) peers(listen string) (relay.Peers, error) {
	if len(f.list) > 0 {
		var addrs []netip.AddrPort
		for _, p := range f.list {
			a, err := netip.ParseAddrPort(p)
			if err != nil {
				return relay.Peers{}, fmt.Errorf("--peers: %w", err)
			}
			addrs = append(addrs, a)
		}
		names := slices.Sorted(slices.Values(f.list))
		return relay.Peers{
			Group: strings.Join(names, ","),
			Look:  func(context.Context) ([]netip.AddrPort, error) { return addrs, nil },
		}, nil
	}
	if f.dns == "" {
		return relay.Peers{}, nil
	}
	host, service, err := net.SplitHostPort(f.dns)
	if err != nil {
		host = f.dns
		if _, service, err = net.SplitHostPort(listen); err != nil {
			return relay.Peers{}, fmt.Errorf("--listen: %w", err)
		}
	}
	port, err := net.LookupPort("tcp", service)
	if err != nil || port <= 0 {
		return relay.Peers{}, fmt.Errorf("--peers-from-dns %q has no port that agents could dial: give host:port", f.dns)
	}
	return relay.Peers{Group: f.dns, Look: func(ctx context.Context) ([]netip.AddrPort, error) {
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, err
		}
		out := make([]netip.AddrPort, len(ips))
		for i, ip := range ips {
			out[i] = netip.AddrPortFrom(ip.Unmap(), uint16(port))
		}
		return out, nil
	}}, nil
}
