package stream

import (
	"encoding/binary"
	"io"
)

const replyHead = 6 // version u8, flags u8, code u16, length of the text u16

// Reply answers a Hello or an Open. With OK the session or stream is open, and
// for a forwarded stream OK means that the pod accepted the connection; with any
// other code nothing was opened.
type Reply struct {
	Version uint8  // the version to use from here on, as Open.Version or Hello.Version was read; 0 = Version
	Code    Code   // OK or the reason
	Text    string // one line for people, at most MaxText bytes; more is cut
}

// Err returns nil for OK and otherwise the refusal as an *Error.
func (r *Reply) Err() error {
	if r.Code == OK {
		return nil
	}
	return &Error{Code: r.Code, Text: r.Text}
}

// AppendReply appends the wire form of r to b. The text is made safe and cut to
// size, so that a refusal is never lost over its wording. It returns b unchanged
// and an *Error if r accepts with a version this package does not speak.
func AppendReply(b []byte, r *Reply) ([]byte, error) {
	version := r.Version
	if version == 0 {
		version = Version
	}
	if r.Code == OK && version > Version {
		return b, during("encode reply", unsupported("version %d, at most %d is spoken here", version, Version))
	}
	text := clean(r.Text)
	b = append(b, version, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Code))
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...), nil
}

// WriteReply writes r to w with one Write.
func WriteReply(w io.Writer, r *Reply) error {
	b, err := AppendReply(make([]byte, 0, 64), r)
	if err != nil {
		return err
	}
	return during("write reply", writeOnce(w, b))
}

// ReadReply reads one Reply from r. A refusal is a Reply like any other and not
// an error here: see Reply.Err. The text is safe to print. An *Error is in the
// chain if the peer sent no Reply, or accepted in a way not spoken here; a
// refusal is readable whatever the version. The deadline is the caller's.
func ReadReply(r io.Reader) (*Reply, error) {
	reply, err := readReply(r)
	if err != nil {
		return nil, during("read reply", err)
	}
	return reply, nil
}

func readReply(r io.Reader) (*Reply, error) {
	var head [replyHead]byte
	if err := readHead(r, head[:]); err != nil {
		return nil, err
	}
	version, flags := head[0], head[1]
	code := Code(binary.BigEndian.Uint16(head[2:]))
	n := int(binary.BigEndian.Uint16(head[4:]))
	if version == 0 {
		return nil, malformed("version 0")
	}
	if n > MaxText {
		return nil, malformed("text of %d bytes, at most %d are allowed", n, MaxText)
	}
	text, err := readRest(r, n)
	if err != nil {
		return nil, err
	}
	if code == OK && version > Version {
		return nil, unsupported("version %d was chosen, at most %d is spoken here", version, Version)
	}
	if code == OK && flags != 0 {
		return nil, unsupported("flags 0x%02x are not known here", flags)
	}
	return &Reply{Version: version, Code: code, Text: clean(string(text))}, nil
}
