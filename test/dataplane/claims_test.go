//go:build linux

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/culvert-k8s/culvert/test/lab"
)

// IP protocols of the noise that a kernel makes on an IPv6 link by itself.
const (
	protoHopByHop = 0 // in front of a multicast listener report
	protoICMPv6   = 58
)

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.IPv6Loopback()
)

// isNoise tells whether the kernel sent the packet by itself because the device
// has IPv6: router solicitations, duplicate address detection and multicast
// listener reports. All of them are ICMPv6 from a link-local or from no address
// to a link-local multicast group, which no program of ours ever sends. ARP is
// not noise: nobody asks for an address with whom nobody wants to talk.
func isNoise(p *lab.Packet) bool {
	src, dst := p.Src.Addr(), p.Dst.Addr()
	return p.EtherType == lab.EtherIPv6 &&
		(p.Proto == protoICMPv6 || p.Proto == protoHopByHop) &&
		(src.IsUnspecified() || src.IsLinkLocalUnicast()) &&
		dst.IsLinkLocalMulticast()
}

// quiet claims that nothing but noise crossed a device.
func quiet(packets []lab.Packet) error {
	return none(packets, func(p *lab.Packet) bool { return !isNoise(p) })
}

// none claims that no packet is bad.
func none(packets []lab.Packet, bad func(*lab.Packet) bool) error {
	found := lab.Select(packets, bad)
	if len(found) == 0 {
		return nil
	}
	p := found[0]
	return fmt.Errorf("%d packets, the first: ethertype %#04x protocol %d %s -> %s %s, %d bytes",
		len(found), p.EtherType, p.Proto, p.Src, p.Dst, p.Flags, p.Length)
}

// isLocal tells whether a packet or socket goes from a loopback address to the
// same one, with one of the ports at one end.
func isLocal(a, b netip.AddrPort, ports []uint16) bool {
	return a.Addr() == b.Addr() && (a.Addr() == loopback4 || a.Addr() == loopback6) &&
		(slices.Contains(ports, a.Port()) || slices.Contains(ports, b.Port()))
}

// onlyLocal claims that a loopback device carried TCP between 127.0.0.1 and
// 127.0.0.1:PORT, or ::1 and [::1]:PORT, and nothing else, and that each of the
// ports got a connection on which data went.
func onlyLocal(packets []lab.Packet, ports ...uint16) error {
	if err := none(packets, func(p *lab.Packet) bool { return !p.IsTCP() || !isLocal(p.Src, p.Dst, ports) }); err != nil {
		return err
	}
	for _, dial := range lab.Dials(packets) {
		if !slices.Contains(ports, dial.Dst.Port()) {
			return fmt.Errorf("somebody dialled %s", dial.Dst)
		}
	}
	for _, port := range ports {
		if !hasData(packets, loopback4, port) && !hasData(packets, loopback6, port) {
			return fmt.Errorf("no data for port %d", port)
		}
	}
	return nil
}

// hasData tells whether data went to addr:port.
func hasData(packets []lab.Packet, addr netip.Addr, port uint16) bool {
	to := netip.AddrPortFrom(addr, port)
	return slices.ContainsFunc(packets, func(p lab.Packet) bool { return p.IsTCP() && p.Dst == to && p.PayloadLen > 0 })
}

// oneTunnel claims that a node's wire carried IP packets of one TCP connection
// only, and that the node opened it to the relay.
func oneTunnel(packets []lab.Packet, node netip.Addr, relay netip.AddrPort) error {
	dials := lab.Dials(packets)
	if len(dials) != 1 || dials[0].Src.Addr() != node || dials[0].Dst != relay {
		return fmt.Errorf("connections opened: %v, want one from %s to %s", dials, node, relay)
	}
	tunnel := dials[0]
	return none(packets, func(p *lab.Packet) bool {
		flow := lab.Flow{Src: p.Src, Dst: p.Dst}
		return isIP(p) && (!p.IsTCP() || flow != tunnel && flow != tunnel.Reverse())
	})
}

func isIP(p *lab.Packet) bool { return p.EtherType == lab.EtherIPv4 || p.EtherType == lab.EtherIPv6 }

// apart claims that no packet went between one host and others, in either
// direction. An ARP question reaches every host and so says nothing.
func apart(packets []lab.Packet, one netip.Addr, others ...netip.Prefix) error {
	theirs := func(a netip.Addr) bool {
		return slices.ContainsFunc(others, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return none(packets, func(p *lab.Packet) bool {
		src, dst := p.Src.Addr(), p.Dst.Addr()
		return isIP(p) && (src == one && theirs(dst) || dst == one && theirs(src))
	})
}

// answers claims that a host opened no connection: it was only dialled.
func answers(packets []lab.Packet, host netip.Addr) error {
	for _, dial := range lab.Dials(packets) {
		if dial.Src.Addr() == host {
			return fmt.Errorf("%s dialled %s", host, dial.Dst)
		}
	}
	return nil
}

// hidden claims that none of the texts can be read in what went by, and that
// something went by.
func hidden(packets []lab.Packet, texts ...string) error {
	if lab.CountTCP(packets).WithPayload == 0 {
		return errors.New("no data at all")
	}
	for _, text := range texts {
		if lab.InPayload(packets, []byte(text)) {
			return fmt.Errorf("%q can be read", text)
		}
	}
	return nil
}

// tableIsLocal claims of a namespace's TCP table that every connection in it is
// from localhost to localhost, and that there is one to each of the ports.
func tableIsLocal(sockets []lab.Socket, ports ...uint16) error {
	open := map[uint16]bool{}
	for _, s := range sockets {
		if s.State == lab.Listening {
			continue
		}
		if !isLocal(s.Local, s.Remote, ports) {
			return fmt.Errorf("connection %s -> %s %s", s.Local, s.Remote, s.State)
		}
		if s.State == lab.Established {
			open[s.Remote.Port()] = true
		}
	}
	for _, port := range ports {
		if !open[port] {
			return fmt.Errorf("no connection to port %d", port)
		}
	}
	return nil
}

// listensAt claims that the sockets that listen are exactly at these addresses.
func listensAt(sockets []lab.Socket, want ...string) error {
	var got []string
	for _, s := range lab.Listeners(sockets) {
		got = append(got, s.Local.String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("listens at %v, want %v", got, want)
	}
	return nil
}
