//go:build linux

package lab

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"
)

// TCPFlags are the control bits of a TCP header.
type TCPFlags uint8

// The control bits that tests ask for.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// String returns the flags as tcpdump writes them, for example "S." for SYN and ACK.
func (f TCPFlags) String() string {
	var b strings.Builder
	for i, letter := range "FSRP." {
		if f&(1<<i) != 0 {
			b.WriteRune(letter)
		}
	}
	return b.String()
}

// EtherTypes and IP protocols that are taken apart.
const (
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherIPv6 = 0x86dd

	ProtoTCP = 6
	ProtoUDP = 17
)

// Packet is one captured packet, as far as it could be taken apart: what is not
// there, or was cut off by the snapshot length, is zero.
//
// The kernel captures before it cuts large segments to size and after it merges
// small ones, so one Packet may stand for several on a physical wire.
type Packet struct {
	// Time is when the kernel saw the packet.
	Time time.Time
	// Length is its length on the wire in bytes, link header included.
	Length int
	// EtherType is the network protocol; Proto is the IP protocol.
	EtherType uint16
	Proto     uint8
	// Src and Dst have port 0 unless the packet is TCP or UDP.
	Src, Dst netip.AddrPort
	// Flags, Seq and Ack are those of TCP.
	Flags    TCPFlags
	Seq, Ack uint32
	// PayloadLen counts the bytes after the TCP or UDP header, captured or not.
	PayloadLen int
	// Payload is the captured part of them.
	Payload []byte
}

// IsTCP reports whether the packet is a TCP segment.
func (p *Packet) IsTCP() bool { return p.Proto == ProtoTCP }

// Is reports whether all the given flags are set.
func (p *Packet) Is(flags TCPFlags) bool { return p.Flags&flags == flags }

// linkHeader returns the length of a link type's header and the place of the
// EtherType in it; at is -1 where there is none.
func linkHeader(link uint32) (length, at int) {
	switch link {
	case linkEN10MB:
		return 14, 12
	case linkLinux:
		return 16, 14
	case linkLinuxV2:
		return 20, 0
	case linkNull:
		return 4, -1
	default:
		return 0, -1
	}
}

// decodeLink takes the frame apart. What is too short stays zero.
func (p *Packet) decodeLink(link uint32, frame []byte, order binary.ByteOrder) {
	length, at := linkHeader(link)
	if len(frame) < length {
		return
	}
	body := frame[length:]
	beyond := p.Length - length // what the wire had after the link header
	switch {
	case at >= 0:
		p.EtherType = binary.BigEndian.Uint16(frame[at:])
	case len(body) > 0 && body[0]>>4 == 4:
		p.EtherType = EtherIPv4
	case len(body) > 0 && body[0]>>4 == 6:
		p.EtherType = EtherIPv6
	}
	if link == linkNull && order.Uint32(frame) > 255 {
		p.EtherType = 0 // no address family is that large: not a header we know
		return
	}
	switch p.EtherType {
	case EtherIPv4:
		p.decodeIPv4(body, beyond)
	case EtherIPv6:
		p.decodeIPv6(body, beyond)
	}
}

func (p *Packet) decodeIPv4(b []byte, beyond int) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return
	}
	header := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 { // larger than the field can say: segmentation offload
		total = beyond
	}
	if header < 20 || total < header || len(b) < header {
		return
	}
	p.Proto = b[9]
	p.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), 0)
	p.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), 0)
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return // a later fragment has no transport header
	}
	p.decodeTransport(b[header:min(len(b), total)], total-header)
}

func (p *Packet) decodeIPv6(b []byte, beyond int) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return
	}
	total := int(binary.BigEndian.Uint16(b[4:])) // without the fixed header
	if total == 0 {
		total = max(beyond-40, 0)
	}
	p.Proto = b[6]
	p.Src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), 0)
	p.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])), 0)
	// Extension headers are not followed: nothing in the lab sends TCP behind one.
	p.decodeTransport(b[40:min(len(b), 40+total)], total)
}

// decodeTransport reads a TCP or UDP header from the captured bytes b of a
// segment that is length bytes long.
func (p *Packet) decodeTransport(b []byte, length int) {
	var header int
	switch {
	case p.Proto == ProtoTCP && len(b) >= 20:
		header = int(b[12]>>4) * 4
		if header < 20 || header > length {
			return
		}
		p.Seq, p.Ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
		p.Flags = TCPFlags(b[13])
	case p.Proto == ProtoUDP && len(b) >= 8:
		header = 8
	default:
		return
	}
	p.Src = netip.AddrPortFrom(p.Src.Addr(), binary.BigEndian.Uint16(b))
	p.Dst = netip.AddrPortFrom(p.Dst.Addr(), binary.BigEndian.Uint16(b[2:]))
	p.PayloadLen = length - header
	if len(b) > header {
		p.Payload = b[header:]
	}
}
