package kubectl

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Frames of WebSocket as in RFC 6455, section 5. Only what a server needs: frames
// that come are masked, frames that go are not, and no extension was negotiated.

const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa

	wsFin     = 0x80 // first byte: the last frame of a message
	wsRsv     = 0x70 // first byte: for extensions
	wsControl = 0x08 // bit of all opcodes that are control frames
	wsMask    = 0x80 // second byte

	maxWSControl = 125
	// maxWSHead is the longest head of a frame that goes.
	maxWSHead = 10
)

// Status codes of close frames.
const (
	closeNormal      = 1000
	closeGoingAway   = 1001
	closeProtocol    = 1002
	closeUnsupported = 1003
	closeNoStatus    = 1005 // stands for a close frame without a code; never sent
	closeInvalidData = 1007
	closePolicy      = 1008
)

// appendWSHead appends the head of a whole message of n bytes.
func appendWSHead(b []byte, op byte, n int) []byte {
	b = append(b, wsFin|op)
	switch {
	case n < 126:
		return append(b, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
}

// wsClose makes a close frame. A reason that is too long is cut.
func wsClose(code uint16, reason string) []byte {
	reason = strings.ToValidUTF8(reason[:min(len(reason), maxWSControl-2)], "")
	b := appendWSHead(nil, opClose, 2+len(reason))
	b = binary.BigEndian.AppendUint16(b, code)
	return append(b, reason...)
}

// wsError is what a client did wrong, with the code to tell it.
type wsError struct {
	code uint16
	text string
}

func (e *wsError) Error() string { return "websocket: " + e.text }

// wsCloseError is the end of a connection whose client said goodbye in another way
// than with closeNormal.
type wsCloseError struct{ code uint16 }

func (e *wsCloseError) Error() string {
	return fmt.Sprintf("websocket: client closed with code %d", e.code)
}

// wsReader takes messages out of the frames of a client. It answers pings and
// close frames.
type wsReader struct {
	r     *bufio.Reader
	reply func(op byte, payload []byte) // queues a control frame; must not keep the payload

	op     byte   // of the message being read, 0 between messages
	rest   uint64 // bytes of the frame not read yet
	last   bool   // the frame is the last one of its message
	mask   [4]byte
	masked int   // bytes of the frame read, modulo 4
	end    error // what every further call returns
}

// next goes to the next message and returns its opcode. The one before must have
// been read to its end. io.EOF: the client closed with a good code.
func (w *wsReader) next() (op byte, err error) {
	if w.end != nil {
		return 0, w.end
	}
	if err := w.frame(); err != nil {
		return 0, w.fail(err)
	}
	return w.op, nil
}

// Read reads from the current message and returns io.EOF at its end.
func (w *wsReader) Read(p []byte) (int, error) {
	for {
		switch {
		case w.end != nil:
			return 0, w.end
		case w.rest > 0:
			return w.payload(p)
		case w.op == 0 || w.last:
			w.op = 0
			return 0, io.EOF
		}
		if err := w.frame(); err != nil {
			return 0, w.fail(err)
		}
	}
}

// payload reads and unmasks a piece of the current frame.
func (w *wsReader) payload(p []byte) (int, error) {
	if uint64(len(p)) > w.rest {
		p = p[:w.rest]
	}
	n, err := w.r.Read(p)
	w.masked = unmask(p[:n], w.mask, w.masked)
	w.rest -= uint64(n)
	if err != nil {
		err = w.fail(noEOF(err))
	}
	return n, err
}

func (w *wsReader) fail(err error) error {
	w.end = err
	return err
}

// frame reads heads until that of a data frame, and handles what is between.
func (w *wsReader) frame() error {
	for {
		first, n, err := w.head()
		if err != nil {
			return err
		}
		op := first & 0x0f
		if op&wsControl != 0 {
			if err := w.controlFrame(first, n); err != nil {
				return err
			}
			continue
		}
		switch {
		case op > opBinary:
			return &wsError{closeProtocol, fmt.Sprintf("unknown opcode %d", op)}
		case (op == opContinuation) != (w.op != 0):
			return &wsError{closeProtocol, "fragment out of place"}
		}
		if op != opContinuation {
			w.op = op
		}
		w.rest, w.last, w.masked = n, first&wsFin != 0, 0
		return nil
	}
}

// head reads the head of a frame, and leaves the mask in w.
func (w *wsReader) head() (first byte, n uint64, err error) {
	b, err := w.r.Peek(2)
	if err != nil {
		if len(b) > 0 || w.op != 0 {
			err = noEOF(err)
		} else if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // no close frame came
		}
		return 0, 0, err
	}
	first, second := b[0], b[1]
	size := 2 + 4
	switch second &^ wsMask {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if first&wsRsv != 0 {
		return 0, 0, &wsError{closeProtocol, "reserved bits are set"}
	}
	if second&wsMask == 0 {
		return 0, 0, &wsError{closeProtocol, "frame is not masked"}
	}
	if b, err = w.r.Peek(size); err != nil {
		return 0, 0, noEOF(err)
	}
	switch n = uint64(second &^ wsMask); n {
	case 126:
		n = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		n = binary.BigEndian.Uint64(b[2:])
	}
	copy(w.mask[:], b[size-4:])
	_, err = w.r.Discard(size)
	if n>>63 != 0 {
		return 0, 0, &wsError{closeProtocol, "length out of range"}
	}
	return first, n, err
}

// controlFrame handles a ping, a pong or the end. It returns what ends the
// connection.
func (w *wsReader) controlFrame(first byte, n uint64) error {
	if first&wsFin == 0 || n > maxWSControl {
		return &wsError{closeProtocol, "control frame too long or in pieces"}
	}
	p, err := w.r.Peek(int(n))
	if err != nil {
		return noEOF(err)
	}
	unmask(p, w.mask, 0)
	switch first & 0x0f {
	case opPing:
		w.reply(opPong, p)
	case opPong:
	case opClose:
		return w.closeFrame(p)
	default:
		return &wsError{closeProtocol, "unknown control frame"}
	}
	_, err = w.r.Discard(int(n))
	return err
}

func (w *wsReader) closeFrame(p []byte) error {
	if len(p) == 1 {
		return &wsError{closeProtocol, "close frame without a whole code"}
	}
	code := uint16(closeNoStatus)
	if len(p) >= 2 {
		code = binary.BigEndian.Uint16(p)
		p = p[:2]
	}
	w.reply(opClose, p)
	if code == closeNormal || code == closeGoingAway || code == closeNoStatus {
		return io.EOF
	}
	return &wsCloseError{code}
}

// noEOF makes an end in the middle of something an error.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// unmask takes the mask off p, whose first byte is at position pos of its frame,
// modulo 4. It returns the position after p.
func unmask(p []byte, mask [4]byte, pos int) int {
	var turned [8]byte
	for i := range turned {
		turned[i] = mask[(pos+i)&3]
	}
	key := binary.LittleEndian.Uint64(turned[:])
	end := (pos + len(p)) & 3
	for len(p) >= 32 {
		q := p[:32:32]
		binary.LittleEndian.PutUint64(q, binary.LittleEndian.Uint64(q)^key)
		binary.LittleEndian.PutUint64(q[8:], binary.LittleEndian.Uint64(q[8:])^key)
		binary.LittleEndian.PutUint64(q[16:], binary.LittleEndian.Uint64(q[16:])^key)
		binary.LittleEndian.PutUint64(q[24:], binary.LittleEndian.Uint64(q[24:])^key)
		p = p[32:]
	}
	for i := range p {
		p[i] ^= turned[i&7]
	}
	return end
}

// tunnelReader makes one stream of bytes of binary messages: SPDY inside a
// WebSocket. io.EOF: the client closed with a good code.
type tunnelReader struct{ ws *wsReader }

func (t tunnelReader) Read(p []byte) (int, error) {
	for {
		if t.ws.op == 0 {
			op, err := t.ws.next()
			if err != nil {
				return 0, err
			}
			if op != opBinary {
				return 0, t.ws.fail(&wsError{closeUnsupported, "message is not binary"})
			}
		}
		n, err := t.ws.Read(p)
		if n > 0 || err != io.EOF || t.ws.end != nil {
			return n, err
		}
	}
}
