//go:build linux

package lab

import (
	"bytes"
	"net/netip"
)

// Flow is one direction of a TCP connection.
type Flow struct {
	Src, Dst netip.AddrPort
}

// Reverse returns the other direction.
func (f Flow) Reverse() Flow { return Flow{Src: f.Dst, Dst: f.Src} }

// FlowCount says what went one way.
type FlowCount struct {
	// Packets counts all segments, WithPayload those that carry data.
	Packets, WithPayload int
	// PayloadBytes counts data, retransmissions included.
	PayloadBytes int64
	// WireBytes counts everything, headers included.
	WireBytes int64
}

// Add adds other to c.
func (c *FlowCount) Add(other FlowCount) {
	c.Packets += other.Packets
	c.WithPayload += other.WithPayload
	c.PayloadBytes += other.PayloadBytes
	c.WireBytes += other.WireBytes
}

// CountFlows counts the TCP segments of each flow.
func CountFlows(packets []Packet) map[Flow]FlowCount {
	flows := map[Flow]FlowCount{}
	for i := range packets {
		p := &packets[i]
		if !p.IsTCP() {
			continue
		}
		one := FlowCount{Packets: 1, PayloadBytes: int64(p.PayloadLen), WireBytes: int64(p.Length)}
		if p.PayloadLen > 0 {
			one.WithPayload = 1
		}
		flow := Flow{Src: p.Src, Dst: p.Dst}
		sum := flows[flow]
		sum.Add(one)
		flows[flow] = sum
	}
	return flows
}

// CountTCP counts the TCP segments of all flows together.
func CountTCP(packets []Packet) FlowCount {
	var sum FlowCount
	for _, count := range CountFlows(packets) {
		sum.Add(count)
	}
	return sum
}

// Dials returns the flows that opened a connection, from who sent the SYN to who
// was asked, in the order of their first SYN.
func Dials(packets []Packet) []Flow {
	var flows []Flow
	seen := map[Flow]bool{}
	for i := range packets {
		p := &packets[i]
		flow := Flow{Src: p.Src, Dst: p.Dst}
		if p.IsTCP() && p.Is(SYN) && !p.Is(ACK) && !seen[flow] {
			seen[flow] = true
			flows = append(flows, flow)
		}
	}
	return flows
}

// Select returns the packets for which keep is true.
func Select(packets []Packet, keep func(*Packet) bool) []Packet {
	var kept []Packet
	for i := range packets {
		if keep(&packets[i]) {
			kept = append(kept, packets[i])
		}
	}
	return kept
}

// InPayload reports whether any flow carried text, also across packets that
// follow one another. It sees only what the snapshot length let through.
func InPayload(packets []Packet, text []byte) bool {
	tails := map[Flow][]byte{}
	for i := range packets {
		p := &packets[i]
		if len(p.Payload) == 0 {
			continue
		}
		flow := Flow{Src: p.Src, Dst: p.Dst}
		window := append(tails[flow], p.Payload...)
		if bytes.Contains(window, text) {
			return true
		}
		keep := max(min(len(window), len(text)-1), 0)
		if len(p.Payload) < p.PayloadLen {
			keep = 0 // what follows in the stream does not follow here
		}
		tails[flow] = bytes.Clone(window[len(window)-keep:])
	}
	return false
}
