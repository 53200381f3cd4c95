package kubectl

import (
	"encoding/binary"
	"fmt"
)

// Frames of SPDY/3.1, as in draft-mbelshe-httpbis-spdy-00 and SPDY protocol draft
// 3.1. All heads are 8 bytes: a control frame has its highest bit set, then the
// version, the type, 8 bits of flags and 24 bits of length; a data frame has its
// stream in place of version and type.

const (
	spdyHead    = 8
	spdyVersion = 3

	typeSynStream    = 1
	typeSynReply     = 2
	typeRstStream    = 3
	typeSettings     = 4
	typePing         = 6
	typeGoAway       = 7
	typeHeaders      = 8
	typeWindowUpdate = 9

	flagFin            = 0x01
	flagUnidirectional = 0x02 // of SYN_STREAM

	controlBit = 1 << 31
	maxStream  = controlBit - 1

	// maxControlFrame bounds what is read into memory at once: a SYN_STREAM of
	// kubectl has some 100 bytes.
	maxControlFrame = 16 << 10
)

// Status codes of RST_STREAM and GOAWAY.
const (
	rstProtocolError = 1
	rstRefused       = 3
	rstCancel        = 5
	rstInUse         = 8

	goAwayOK            = 0
	goAwayProtocolError = 1
)

// head is that of any frame.
type head struct {
	control bool
	kind    uint16 // of a control frame
	stream  uint32 // of a data frame
	flags   byte
	length  int
}

func parseHead(b []byte) (head, error) {
	first, second := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	h := head{flags: byte(second >> 24), length: int(second & 0xffffff)}
	if first&controlBit == 0 {
		h.stream = first
		if h.stream == 0 {
			return h, protocolError("data of stream 0")
		}
		return h, nil
	}
	h.control, h.kind = true, uint16(first)
	if v := first >> 16 & 0x7fff; v != spdyVersion {
		return h, protocolError("frame of SPDY version %d", v)
	}
	if h.length > maxControlFrame {
		return h, protocolError("control frame of %d bytes, at most %d are read", h.length, maxControlFrame)
	}
	return h, nil
}

// spdyError is what a client did against the protocol. It ends the session.
type spdyError struct{ text string }

func (e *spdyError) Error() string { return "spdy: " + e.text }

func protocolError(format string, args ...any) error {
	return &spdyError{fmt.Sprintf(format, args...)}
}

func appendControlHead(b []byte, kind uint16, n int) []byte {
	b = binary.BigEndian.AppendUint32(b, controlBit|spdyVersion<<16|uint32(kind))
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

func appendData(b []byte, stream uint32, flags byte, p []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, stream)
	b = binary.BigEndian.AppendUint32(b, uint32(flags)<<24|uint32(len(p)))
	return append(b, p...)
}

func appendFin(b []byte, stream uint32) []byte { return appendData(b, stream, flagFin, nil) }

func appendRst(b []byte, stream, status uint32) []byte {
	b = appendControlHead(b, typeRstStream, 8)
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint32(b, status)
}

func appendPing(b []byte, id uint32) []byte {
	b = appendControlHead(b, typePing, 4)
	return binary.BigEndian.AppendUint32(b, id)
}

func appendGoAway(b []byte, last, status uint32) []byte {
	b = appendControlHead(b, typeGoAway, 8)
	b = binary.BigEndian.AppendUint32(b, last)
	return binary.BigEndian.AppendUint32(b, status)
}

// replies makes SYN_REPLY frames without headers, which are all that a port-forward
// needs. Header blocks of a session are one zlib stream. The empty block, a count
// of 0, goes into it as a stored block of deflate: whole bytes that depend on
// nothing before them, so that no compressor is kept, which would be 0.8 MiB.
type replies struct{ begun bool }

// Beginning of the zlib stream: deflate with a window of 32 KiB and a dictionary,
// that of SPDY/3, which is named by its Adler-32.
const zlibBegin = "\x78\xbb\xe3\xc6\xa7\xc2"

// Stored blocks that are not the last one: type 0, length, its complement. The first
// holds the number of headers, the second nothing: it is what a compressor writes to
// flush, and Go's reader hands nothing out before it.
const emptyHeaders = "\x00\x04\x00\xfb\xff\x00\x00\x00\x00" + "\x00\x00\x00\xff\xff"

func (r *replies) append(b []byte, stream uint32) []byte {
	n := 4 + len(emptyHeaders)
	if !r.begun {
		n += len(zlibBegin)
	}
	b = appendControlHead(b, typeSynReply, n)
	b = binary.BigEndian.AppendUint32(b, stream)
	if !r.begun {
		r.begun = true
		b = append(b, zlibBegin...)
	}
	return append(b, emptyHeaders...)
}

// spdyFraming is SPDY on a connection of its own.
type spdyFraming struct{}

func (spdyFraming) fit(room int) int { return room - spdyHead }

func (spdyFraming) appendData(b []byte, id uint32, p []byte) []byte { return appendData(b, id, 0, p) }

func (spdyFraming) seal(b []byte) []byte { return b[headRoom:] }

// tunnelFraming is SPDY inside a WebSocket: each batch is one message.
type tunnelFraming struct{ spdyFraming }

func (tunnelFraming) seal(b []byte) []byte {
	var room [maxWSHead]byte
	h := appendWSHead(room[:0], opBinary, len(b)-headRoom)
	b = b[headRoom-len(h):]
	copy(b, h)
	return b
}
