//go:build linux

package dataplane

import (
	"fmt"
	"net/netip"
	"regexp"
	"testing"

	"github.com/culvert-k8s/culvert/test/lab"
)

// controls goes around the product on purpose, under the same captures, and
// expects every claim to be refuted.
func (s *scene) controls(t *testing.T, traps []*decoy) {
	node, relay, client := s.near.node(), s.f.Relay.Host, s.f.Client
	direct := netip.AddrPortFrom(s.near.ip, openPort).String()
	said := secret()
	end := record(t, s.f.taps(s.near))

	c := talkDirectly(t, client.Namespace, direct, said)
	outside, err := s.near.space.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	talkDirectly(t, s.near.space, direct, said).Close() // by its own address: over lo, but not localhost
	if _, err := dialGreeting(t.Context(), relay.Namespace, netip.AddrPortFrom(node.Addr(), greetPort).String()); err != nil {
		t.Fatal(err)
	}
	if _, err := dialGreeting(t.Context(), client.Namespace, netip.AddrPortFrom(relay.Addr(), greetPort).String()); err != nil {
		t.Fatal(err)
	}
	for _, d := range traps {
		if err := d.works(t); err != nil {
			t.Errorf("decoy: %v", err)
		}
	}
	e := end()
	for place, packets := range e {
		e[place] = lab.Select(packets, isIP) // refuted by more than a question for an address
	}
	outside = lab.SelectSockets(outside, func(s *lab.Socket) bool { return s.State == lab.Established })

	tunnelTo := netip.MustParseAddrPort(s.f.Relay.Addr())
	for claim, refuted := range map[string]error{
		"pod's eth0 is quiet":          quiet(e[s.near.name+podWire]),
		"pod's cable is quiet":         quiet(e[s.near.name+podCable]),
		"bridge is quiet":              quiet(e[nodeBridge]),
		"pod's loopback is local":      onlyLocal(e[s.near.name+podLo], openPort),
		"one tunnel":                   oneTunnel(e[nodeWire], node.Addr(), tunnelTo),
		"apart, at the client":         apart(e[clientWire], client.Addr(), s.nodePrefixes()...),
		"apart, at the node":           apart(e[nodeWire], client.Addr(), s.nodePrefixes()...),
		"relay dials nobody":           answers(e[relayWire], relay.Addr()),
		"hidden at the client":         hidden(e[clientWire], said),
		"hidden at the node":           hidden(e[nodeWire], said),
		"hidden at the relay":          hidden(e[relayWire], decoyText),
		"node's loopback is quiet":     onlyHealth(e[nodeLo]),
		"connections in pod are local": tableIsLocal(outside, openPort),
	} {
		if refuted == nil {
			t.Errorf("%s: not refuted by what broke it", claim)
		} else {
			t.Logf("%s: refuted: %v", claim, refuted)
		}
	}
	s.controlListeners(t)
}

// talkDirectly reaches the pod's service on all addresses without the product.
func talkDirectly(t *testing.T, from *lab.Namespace, address, said string) *call {
	t.Helper()
	c, err := dialGreeting(t.Context(), from, address)
	if err == nil {
		err = c.say(said)
	}
	if err != nil {
		t.Fatalf("from %s to %s: %v", from.Name(), address, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// controlListeners runs a program that listens on more than the agent may.
func (s *scene) controlListeners(t *testing.T) {
	node := s.near.node()
	process, err := node.Start(t.Context(), s.f.Binaries.PodServer, "-echo", "7998", "-echo", "7999")
	if err != nil {
		t.Fatal(err)
	}
	defer process.Kill()
	if _, err := process.WaitLine(regexp.MustCompile(`^ready$`), patience); err != nil {
		t.Fatal(err)
	}
	sockets, err := node.Sockets()
	if err == nil {
		sockets, err = process.Sockets(sockets)
	}
	if err != nil {
		t.Fatal(err)
	}
	if listensAt(sockets, "127.0.0.1:7998") == nil || listensAt(sockets, "127.0.0.1:7998", "127.0.0.1:7999") != nil {
		t.Error("listeners of a process are not told apart")
	}
}

// TestNoise holds what is taken for the kernel's own against what is not.
func TestNoise(t *testing.T) {
	packet := func(ether uint16, proto uint8, src, dst string) lab.Packet {
		return lab.Packet{
			EtherType: ether, Proto: proto,
			Src: netip.AddrPortFrom(netip.MustParseAddr(src), 0), Dst: netip.AddrPortFrom(netip.MustParseAddr(dst), 0),
		}
	}
	for i, tc := range []struct {
		packet lab.Packet
		want   bool
	}{
		{packet(lab.EtherIPv6, protoICMPv6, "fe80::1", "ff02::2"), true},        // router solicitation
		{packet(lab.EtherIPv6, protoICMPv6, "::", "ff02::1:ff00:1"), true},      // duplicate address detection
		{packet(lab.EtherIPv6, protoHopByHop, "::", "ff02::16"), true},          // multicast listener report
		{packet(lab.EtherIPv6, lab.ProtoTCP, "fe80::1", "ff02::2"), false},      // no TCP, whatever the address
		{packet(lab.EtherIPv6, lab.ProtoUDP, "fe80::1", "ff02::fb"), false},     // no program of ours
		{packet(lab.EtherIPv6, protoICMPv6, "fe80::1", "fe80::2"), false},       // two that talk
		{packet(lab.EtherIPv6, protoICMPv6, "fd00::1", "ff02::1"), false},       // a routable address
		{packet(lab.EtherIPv4, lab.ProtoUDP, "10.0.0.1", "224.0.0.251"), false}, // IPv4 makes no noise
		{packet(lab.EtherARP, 0, "0.0.0.0", "0.0.0.0"), false},                  // somebody wants to talk
	} {
		if got := isNoise(&tc.packet); got != tc.want {
			t.Errorf("case %d, %s: %v, want %v", i, fmt.Sprint(tc.packet.Src, tc.packet.Dst), got, tc.want)
		}
	}
}
