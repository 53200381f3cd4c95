//go:build linux

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Link types of a capture that the lab can read.
const (
	linkNull    = 0   // BSD loopback: 4 bytes of address family
	linkEN10MB  = 1   // Ethernet, also what Linux gives for lo
	linkRaw     = 101 // an IP packet and nothing before it
	linkLinux   = 113 // cooked capture, version 1
	linkLinuxV2 = 276 // cooked capture, version 2: what "any" gives
)

const (
	pcapFileHeader   = 24
	pcapRecordHeader = 16
	// maxRecord is the largest record a capture may claim: tcpdump's own limit.
	maxRecord = 256 << 10
)

// Errors of reading a capture. A file cut in mid-record is io.ErrUnexpectedEOF.
var (
	ErrNotPcap  = errors.New("not a classic pcap file")
	ErrLinkType = errors.New("link type is not supported")
	ErrRecord   = errors.New("record is longer than any packet")
)

// PcapReader reads packets from a file in the classic pcap format, of either
// byte order and either resolution of time.
type PcapReader struct {
	r     io.Reader
	order binary.ByteOrder
	unit  time.Duration // of the fraction in a time stamp
	link  uint32
	head  [pcapRecordHeader]byte
}

// NewPcapReader reads the file header. The caller closes r.
func NewPcapReader(r io.Reader) (*PcapReader, error) {
	var head [pcapFileHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read pcap header: %w", err)
	}
	p := &PcapReader{r: r}
	switch [4]byte(head[:4]) {
	case [4]byte{0xd4, 0xc3, 0xb2, 0xa1}:
		p.order, p.unit = binary.LittleEndian, time.Microsecond
	case [4]byte{0xa1, 0xb2, 0xc3, 0xd4}:
		p.order, p.unit = binary.BigEndian, time.Microsecond
	case [4]byte{0x4d, 0x3c, 0xb2, 0xa1}:
		p.order, p.unit = binary.LittleEndian, time.Nanosecond
	case [4]byte{0xa1, 0xb2, 0x3c, 0x4d}:
		p.order, p.unit = binary.BigEndian, time.Nanosecond
	default:
		return nil, fmt.Errorf("read pcap header: %w", ErrNotPcap)
	}
	p.link = p.order.Uint32(head[20:]) & 0x0fffffff
	switch p.link {
	case linkNull, linkEN10MB, linkRaw, linkLinux, linkLinuxV2:
		return p, nil
	}
	return nil, fmt.Errorf("read pcap header: %w: %d", ErrLinkType, p.link)
}

// Next returns the next packet, io.EOF after the last one, or
// io.ErrUnexpectedEOF when the file ends within one.
func (p *PcapReader) Next() (Packet, error) {
	if _, err := io.ReadFull(p.r, p.head[:]); err != nil {
		if !errors.Is(err, io.EOF) {
			err = fmt.Errorf("read pcap record: %w", err)
		}
		return Packet{}, err
	}
	seconds, fraction := p.order.Uint32(p.head[0:]), p.order.Uint32(p.head[4:])
	captured, length := p.order.Uint32(p.head[8:]), p.order.Uint32(p.head[12:])
	if captured > maxRecord {
		return Packet{}, fmt.Errorf("read pcap record of %d bytes: %w", captured, ErrRecord)
	}
	frame := make([]byte, captured)
	if _, err := io.ReadFull(p.r, frame); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Packet{}, fmt.Errorf("read pcap record: %w", err)
	}
	pkt := Packet{
		Time:   time.Unix(int64(seconds), int64(fraction)*int64(p.unit)),
		Length: int(length),
	}
	pkt.decodeLink(p.link, frame, p.order)
	return pkt, nil
}
