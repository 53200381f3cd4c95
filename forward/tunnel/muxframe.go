package tunnel

import "encoding/binary"

// Frame types and flags of yamux (its spec.md), as far as a carrier looks.
const (
	typeData   = 0
	typeWindow = 1
	typePing   = 2
	typeGoAway = 3

	muxVersion = 0

	flagSYN = 1
	flagACK = 2
	flagFIN = 4
	flagRST = 8

	// initialCredit is what every stream has before any window update.
	initialCredit = 256 << 10
)

func appendHeader(b []byte, typ byte, flags uint16, id, value uint32) []byte {
	b = append(b, muxVersion, typ)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, id)
	return binary.BigEndian.AppendUint32(b, value)
}

func muxControl(typ byte, flags uint16, id, value uint32) []byte {
	return appendHeader(make([]byte, 0, muxHeader), typ, flags, id, value)
}

// muxHead is the header of a frame.
type muxHead struct {
	typ       byte
	flags     uint16
	id, value uint32
}

func parseHeader(h []byte) muxHead {
	return muxHead{h[1], binary.BigEndian.Uint16(h[2:]), binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:])}
}
