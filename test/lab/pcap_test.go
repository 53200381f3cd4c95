//go:build linux

package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"
)

// segment4 is an IPv4 TCP segment with the given payload.
func segment4(flags TCPFlags, payload string) []byte {
	b := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, ProtoTCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	b = append(b, tcpHeader(flags)...)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// segment6 is the same over IPv6, from ::1 to ::1.
func segment6(flags TCPFlags, payload string) []byte {
	loopback := netip.IPv6Loopback().As16()
	b := []byte{0x60, 0, 0, 0, 0, byte(20 + len(payload)), ProtoTCP, 64}
	b = append(append(b, loopback[:]...), loopback[:]...)
	return append(append(b, tcpHeader(flags)...), payload...)
}

// tcpHeader goes from port 1000 to port 80 with sequence number 7.
func tcpHeader(flags TCPFlags) []byte {
	return []byte{0x03, 0xe8, 0, 80, 0, 0, 0, 7, 0, 0, 0, 9, 0x50, byte(flags), 0, 0, 0, 0, 0, 0}
}

// pcapFile builds a capture of frames, one second apart.
func pcapFile(order binary.ByteOrder, magic, link uint32, snap int, frames ...[]byte) []byte {
	var b bytes.Buffer
	put := func(fields ...uint32) { binary.Write(&b, order, fields) }
	put(magic)
	binary.Write(&b, order, []uint16{2, 4})
	put(0, 0, uint32(snap), link)
	for i, frame := range frames {
		kept := frame[:min(snap, len(frame))]
		put(uint32(i), 5, uint32(len(kept)), uint32(len(frame)))
		b.Write(kept)
	}
	return b.Bytes()
}

func ethernet(etherType uint16, body []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 12), etherType), body...)
}

func TestPcapLinkTypes(t *testing.T) {
	little, big := binary.ByteOrder(binary.LittleEndian), binary.ByteOrder(binary.BigEndian)
	const micro, nano = 0xa1b2c3d4, 0xa1b23c4d
	cooked := append([]byte{0, 0, 0, 0, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0, 0x08, 0x00}, segment4(PSH|ACK, "hello")...)
	cooked2 := append(append([]byte{0x08, 0x00}, make([]byte, 18)...), segment4(PSH|ACK, "hello")...)
	for _, test := range []struct {
		name  string
		order binary.ByteOrder
		magic uint32
		link  uint32
		frame []byte
	}{
		{"ethernet", little, micro, linkEN10MB, ethernet(EtherIPv4, segment4(PSH|ACK, "hello"))},
		{"ethernet, big endian, nanoseconds", big, nano, linkEN10MB, ethernet(EtherIPv4, segment4(PSH|ACK, "hello"))},
		{"ethernet with padding", little, micro, linkEN10MB, append(ethernet(EtherIPv4, segment4(PSH|ACK, "hello")), 0, 0, 0)},
		{"ethernet IPv6", little, nano, linkEN10MB, ethernet(EtherIPv6, segment6(PSH|ACK, "hello"))},
		{"raw", little, micro, linkRaw, segment4(PSH|ACK, "hello")},
		{"raw IPv6", little, micro, linkRaw, segment6(PSH|ACK, "hello")},
		{"null", little, micro, linkNull, append([]byte{2, 0, 0, 0}, segment4(PSH|ACK, "hello")...)},
		{"cooked", little, micro, linkLinux, cooked},
		{"cooked 2", big, micro, linkLinuxV2, cooked2},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := pcapFile(test.order, test.magic, test.link, 65535, test.frame)
			r, err := NewPcapReader(bytes.NewReader(file))
			if err != nil {
				t.Fatal(err)
			}
			p, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !p.IsTCP() || p.Flags != PSH|ACK || p.Seq != 7 || p.Ack != 9 || p.PayloadLen != 5 || string(p.Payload) != "hello" {
				t.Errorf("%+v", p)
			}
			if p.Src.Port() != 1000 || p.Dst.Port() != 80 || !p.Src.Addr().IsValid() || p.Length != len(test.frame) {
				t.Errorf("%+v", p)
			}
			if unit := time.Duration(p.Time.UnixNano()); unit != 5*time.Microsecond && test.magic == micro {
				t.Errorf("time %v", unit)
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("after the last packet: %v", err)
			}
		})
	}
}

func TestPcapCutPackets(t *testing.T) {
	frame := ethernet(EtherIPv4, segment4(SYN, "some payload"))
	for snap := range frame {
		r, err := NewPcapReader(bytes.NewReader(pcapFile(binary.LittleEndian, 0xa1b2c3d4, linkEN10MB, snap, frame)))
		if err != nil {
			t.Fatal(err)
		}
		p, err := r.Next()
		if err != nil || p.Length != len(frame) {
			t.Fatalf("cut at %d: %+v, %v", snap, p, err)
		}
		if headers := 14 + 20 + 20; snap >= headers && (p.PayloadLen != 12 || len(p.Payload) != snap-headers) {
			t.Errorf("cut at %d: %+v", snap, p)
		}
	}
}

func TestPcapLargeSegment(t *testing.T) {
	segment := segment4(ACK, string(make([]byte, 70_000)))
	segment[2], segment[3] = 0, 0 // the length does not fit into 16 bits
	file := pcapFile(binary.LittleEndian, 0xa1b2c3d4, linkEN10MB, 128, ethernet(EtherIPv4, segment))
	r, err := NewPcapReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := r.Next(); err != nil || p.PayloadLen != 70_000 {
		t.Errorf("payload %d, %v", p.PayloadLen, err)
	}
}

func TestPcapErrors(t *testing.T) {
	good := pcapFile(binary.LittleEndian, 0xa1b2c3d4, linkEN10MB, 100, ethernet(EtherIPv4, segment4(SYN, "")))
	long := bytes.Clone(good)
	binary.LittleEndian.PutUint32(long[pcapFileHeader+8:], maxRecord+1)
	for _, test := range []struct {
		name string
		file []byte
		want error
	}{
		{"empty", nil, io.EOF},
		{"short header", good[:10], io.ErrUnexpectedEOF},
		{"other format", make([]byte, 40), ErrNotPcap},
		{"other link", pcapFile(binary.LittleEndian, 0xa1b2c3d4, 9999, 100), ErrLinkType},
		{"cut in a record header", good[:pcapFileHeader+3], io.ErrUnexpectedEOF},
		{"cut after a record header", good[:pcapFileHeader+pcapRecordHeader], io.ErrUnexpectedEOF},
		{"cut in a record", good[:len(good)-1], io.ErrUnexpectedEOF},
		{"record too long", long, ErrRecord},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := NewPcapReader(bytes.NewReader(test.file))
			if err == nil {
				_, err = r.Next()
			}
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func FuzzPcap(f *testing.F) {
	for _, link := range []uint32{linkEN10MB, linkRaw, linkNull, linkLinux, linkLinuxV2} {
		f.Add(pcapFile(binary.LittleEndian, 0xa1b2c3d4, link, 100, ethernet(EtherIPv4, segment4(SYN, "x"))))
		f.Add(pcapFile(binary.BigEndian, 0xa1b23c4d, link, 30, segment6(RST, "x")))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := NewPcapReader(bytes.NewReader(file))
		if err != nil {
			return
		}
		for {
			p, err := r.Next()
			if err != nil {
				return
			}
			if p.PayloadLen < 0 || len(p.Payload) > p.PayloadLen {
				t.Fatalf("%d bytes captured of a payload of %d", len(p.Payload), p.PayloadLen)
			}
		}
	})
}

func TestFlows(t *testing.T) {
	at := netip.MustParseAddrPort
	client, server := at("10.0.0.1:1000"), at("10.0.0.2:80")
	packets := []Packet{
		{Proto: ProtoTCP, Src: client, Dst: server, Flags: SYN, Length: 60},
		{Proto: ProtoTCP, Src: client, Dst: server, Flags: SYN, Length: 60}, // once more
		{Proto: ProtoTCP, Src: server, Dst: client, Flags: SYN | ACK, Length: 60},
		{Proto: ProtoTCP, Src: client, Dst: server, Flags: ACK, Length: 58, PayloadLen: 3, Payload: []byte("sec")},
		{Proto: ProtoUDP, Src: server, Dst: client, Length: 58, PayloadLen: 3, Payload: []byte("sec")},
		{Proto: ProtoTCP, Src: client, Dst: server, Flags: ACK, Length: 58, PayloadLen: 3, Payload: []byte("ret")},
		{EtherType: EtherARP, Length: 42},
	}
	flow := Flow{Src: client, Dst: server}
	if dials := Dials(packets); len(dials) != 1 || dials[0] != flow {
		t.Errorf("dials %v", dials)
	}
	if got, want := CountFlows(packets)[flow], (FlowCount{4, 2, 6, 236}); got != want {
		t.Errorf("count %+v, want %+v", got, want)
	}
	if got := CountTCP(packets); got.Packets != 5 {
		t.Errorf("all %+v", got)
	}
	if !InPayload(packets, []byte("secret")) || InPayload(packets, []byte("secsec")) {
		t.Error("text is sought across flows instead of along one")
	}
}
