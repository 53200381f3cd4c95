package stream

import (
	"encoding/binary"
	"io"
	"strconv"
)

// FrameType is the first byte of a frame. After a Reply with OK, each direction
// of a forwarded stream is a sequence of frames.
type FrameType uint8

// Types of frames. 4 to 15 are reserved for resuming a stream elsewhere.
const (
	FrameData  FrameType = 1 // 0 to MaxPayload bytes of the connection
	FrameFin   FrameType = 2 // empty: this direction is finished; only FrameReset may follow
	FrameReset FrameType = 3 // code and text: both directions are aborted; nothing follows

	lastReserved FrameType = 15
)

// HeaderSize is the length of a frame header in bytes: type u8, flags u8, length
// of the payload u16.
const HeaderSize = 4

// MaxPayload is the largest payload of a frame in bytes, chosen so that frame
// and 12-byte header of the multiplexer fill exactly four TLS records of 16 KiB.
const MaxPayload = 4*(16<<10) - 12 - HeaderSize

const (
	resetHead = 2 // code u16
	maxReset  = resetHead + MaxText
)

// String returns the name of the type for logs.
func (t FrameType) String() string {
	switch t {
	case FrameData:
		return "DATA"
	case FrameFin:
		return "FIN"
	case FrameReset:
		return "RESET"
	}
	return "frame-" + strconv.Itoa(int(t))
}

// PutHeader puts the header of a frame of type t with n bytes of payload into the
// first HeaderSize bytes of b. It panics if n is not in 0 to MaxPayload: a wrong
// length would turn the rest of the stream into noise.
func PutHeader(b []byte, t FrameType, n int) {
	if n < 0 || n > MaxPayload {
		panic("stream: internal error: frame payload of " + strconv.Itoa(n) + " bytes")
	}
	_ = b[HeaderSize-1]
	b[0], b[1] = byte(t), 0
	binary.BigEndian.PutUint16(b[2:], uint16(n))
}

// ParseHeader returns type and payload length of the frame that begins with b,
// of which it looks at HeaderSize bytes. The length is within the limits of the
// type. With less than HeaderSize bytes the error is io.ErrUnexpectedEOF; for
// anything but a DATA, FIN or RESET frame it is an *Error.
func ParseHeader(b []byte) (t FrameType, n int, err error) {
	if len(b) < HeaderSize {
		return 0, 0, io.ErrUnexpectedEOF
	}
	t, n = FrameType(b[0]), int(b[2])<<8|int(b[3])
	if t == FrameData && b[1] == 0 && n <= MaxPayload {
		return t, n, nil
	}
	return parseRare(t, b[1], n)
}

// parseRare is ParseHeader for all but a good DATA frame.
func parseRare(t FrameType, flags byte, n int) (FrameType, int, error) {
	switch {
	case t == 0 || t > lastReserved:
		return 0, 0, malformed("%s does not exist", t)
	case t > FrameReset:
		return 0, 0, unsupported("%s is not known here", t)
	case flags != 0:
		return 0, 0, unsupported("flags 0x%02x of a %s frame are not known here", flags, t)
	case t == FrameData && n > MaxPayload,
		t == FrameFin && n != 0,
		t == FrameReset && (n < resetHead || n > maxReset):
		return 0, 0, malformed("%s frame with %d bytes", t, n)
	}
	return t, n, nil
}

// AppendData appends a DATA frame with the payload p to b. It panics as PutHeader
// does.
func AppendData(b, p []byte) []byte {
	var head [HeaderSize]byte
	PutHeader(head[:], FrameData, len(p))
	return append(append(b, head[:]...), p...)
}

// AppendReset appends a whole RESET frame to b. The text is made safe and cut to
// MaxText bytes. A reset always has a reason: OK is sent as Internal.
func AppendReset(b []byte, code Code, text string) []byte {
	if code == OK {
		code = Internal
	}
	text = clean(text)
	var head [HeaderSize]byte
	PutHeader(head[:], FrameReset, resetHead+len(text))
	b = append(b, head[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, text...)
}

// ParseReset returns the reason in p, the payload of a RESET frame, with a text
// that is safe to print. It copies what it keeps.
func ParseReset(p []byte) (*Error, error) {
	if len(p) < resetHead || len(p) > maxReset {
		return nil, during("parse reset", malformed("RESET frame with %d bytes", len(p)))
	}
	code := Code(binary.BigEndian.Uint16(p))
	if code == OK {
		return nil, during("parse reset", malformed("RESET frame without a reason"))
	}
	return &Error{Code: code, Text: clean(string(p[resetHead:]))}, nil
}
