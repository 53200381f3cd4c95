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
)

func muxControl(typ byte, flags uint16, id, value uint32) []byte {
	f := make([]byte, muxHeader)
	f[1] = typ
	binary.BigEndian.PutUint16(f[2:], flags)
	binary.BigEndian.PutUint32(f[4:], id)
	binary.BigEndian.PutUint32(f[8:], value)
	return f
}

// isDataHeader tells whether p is a yamux data header that announces a body.
func isDataHeader(p []byte) bool {
	return len(p) == muxHeader && p[0] == 0 && p[1] == typeData && binary.BigEndian.Uint32(p[8:]) != 0
}
