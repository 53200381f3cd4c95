package stream

import (
	"encoding/binary"
	"io"
)

// Layout of an Open. The head is the same in every version.
const (
	openHead  = 4      // version u8, kind u8, length of the rest u16
	openFixed = 16 + 2 // id, port
	fieldHead = 3      // tag u8, length u16
)

// Tags of the fields of an Open. A reader skips an unknown tag with the high bit
// set and refuses one without it, so a new field that must be understood takes a
// low tag. The user is there for the log line only, hence its high bit.
const (
	tagNamespace = 0x01
	tagPod       = 0x02
	tagUID       = 0x03
	tagUser      = 0x84
	tagTrace     = 0x85

	tagOptional = 0x80
)

// Open is the first message on a stream and asks for what the stream is for.
//
// A client names the pod by Namespace and Pod, a relay names it to an agent by
// UID; what else is set there (Namespace, Pod, User) is for the agent's log line
// and decides nothing. The codec checks form, not sense: it does not ask which
// of the names are there.
type Open struct {
	Version   uint8 // written: highest version spoken, 0 = Version. Read: the version to use, never above Version
	Kind      Kind
	ID        ID
	Namespace string // at most MaxNamespace bytes
	Pod       string // at most MaxPod bytes
	UID       string // at most MaxUID bytes
	Port      uint16 // 1 to 65535 for KindForward, 0 for the others
	User      string // at most MaxUser bytes
	Trace     Trace
}

// AppendOpen appends the wire form of o to b. It returns b unchanged and an
// *Error in the chain if o breaks a limit.
func AppendOpen(b []byte, o *Open) ([]byte, error) {
	if err := o.check(); err != nil {
		return b, during("encode open", err)
	}
	start := len(b)
	version := o.Version
	if version == 0 {
		version = Version
	}
	b = append(b, version, byte(o.Kind), 0, 0)
	b = append(b, o.ID[:]...)
	b = binary.BigEndian.AppendUint16(b, o.Port)
	b = appendField(b, tagNamespace, o.Namespace)
	b = appendField(b, tagPod, o.Pod)
	b = appendField(b, tagUID, o.UID)
	b = appendField(b, tagUser, o.User)
	b = appendField(b, tagTrace, o.Trace.String())
	// The limits of the fields add up to less than MaxOpen.
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start-openHead))
	return b, nil
}

// appendField leaves an empty field out: on the wire absent and empty are one.
func appendField(b []byte, tag byte, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, tag)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

// WriteOpen writes o to w with one Write.
func WriteOpen(w io.Writer, o *Open) error {
	b, err := AppendOpen(make([]byte, 0, 256), o)
	if err != nil {
		return err
	}
	return during("write open", writeOnce(w, b))
}

// ReadOpen reads one Open from r. An *Error with Unsupported or Malformed is in
// the chain if the peer sent something else; whoever accepted the stream answers
// it with a Reply. The deadline is the caller's.
func ReadOpen(r io.Reader) (*Open, error) {
	o, err := readOpen(r)
	if err != nil {
		return nil, during("read open", err)
	}
	return o, nil
}

func readOpen(r io.Reader) (*Open, error) {
	var head [openHead]byte
	if err := readHead(r, head[:]); err != nil {
		return nil, err
	}
	version, err := speaks(head[0])
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[2:]))
	if n > MaxOpen-openHead {
		return nil, malformed("message of %d bytes, at most %d are allowed", openHead+n, MaxOpen)
	}
	rest, err := readRest(r, n)
	if err != nil {
		return nil, err
	}
	o := &Open{Version: version, Kind: Kind(head[1])}
	if err := o.parse(rest); err != nil {
		return nil, err
	}
	return o, o.check()
}

// parse fills o from what follows the head.
func (o *Open) parse(b []byte) error {
	if len(b) < openFixed {
		return malformed("%d bytes after the head, at least %d are needed", len(b), openFixed)
	}
	copy(o.ID[:], b)
	o.Port = binary.BigEndian.Uint16(b[16:])
	b = b[openFixed:]
	var seen [256]bool
	for len(b) > 0 {
		if len(b) < fieldHead {
			return malformed("%d stray bytes after the last field", len(b))
		}
		tag, n := b[0], int(binary.BigEndian.Uint16(b[1:]))
		b = b[fieldHead:]
		if n > len(b) {
			return malformed("field 0x%02x of %d bytes, %d are left", tag, n, len(b))
		}
		if seen[tag] {
			return malformed("field 0x%02x twice", tag)
		}
		seen[tag] = true
		if err := o.set(tag, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// set takes one field over. Limits are known by tag, so nothing is copied
// before its length is checked.
func (o *Open) set(tag byte, value []byte) error {
	if tag == tagTrace {
		return o.setTrace(value)
	}
	field, name, limit := o.field(tag)
	if field == nil {
		if tag&tagOptional != 0 {
			return nil
		}
		return unsupported("field 0x%02x is not known here and must be understood", tag)
	}
	if len(value) == 0 {
		return malformed("empty %s", name)
	}
	if len(value) > limit {
		return malformed("%s of %d bytes, at most %d are allowed", name, len(value), limit)
	}
	*field = string(value)
	return nil
}

// setTrace takes a trace over, which has one form on the wire.
func (o *Open) setTrace(value []byte) error {
	t, ok := ParseTrace(string(value))
	if !ok || len(value) != MaxTrace || t.String() != string(value) {
		return malformed("trace of %d bytes that is none of version 00", len(value))
	}
	o.Trace = t
	return nil
}

// field maps a tag to the place of its value; nil for a tag not known here.
func (o *Open) field(tag byte) (value *string, name string, limit int) {
	switch tag {
	case tagNamespace:
		return &o.Namespace, "namespace", MaxNamespace
	case tagPod:
		return &o.Pod, "pod name", MaxPod
	case tagUID:
		return &o.UID, "pod uid", MaxUID
	case tagUser:
		return &o.User, "user", MaxUser
	}
	return nil, "", 0
}

// check is the form both directions insist on.
func (o *Open) check() error {
	switch {
	case o.Kind == 0:
		return malformed("kind 0")
	case o.Kind != KindForward && o.Kind != KindControl && o.Kind != KindAPI:
		return unsupported("%s is not known here", o.Kind)
	case o.Kind == KindForward && o.Port == 0:
		return malformed("port 0")
	case o.Kind != KindForward && o.Port != 0:
		return malformed("port %d on a stream of kind %s", o.Port, o.Kind)
	}
	for _, tag := range [...]byte{tagNamespace, tagPod, tagUID, tagUser} {
		value, name, limit := o.field(tag)
		if err := checkText(name, *value, limit); err != nil {
			return err
		}
	}
	return nil
}
