package broker

import (
	"encoding/binary"
	"time"

	"github.com/culvert-k8s/culvert/agent/sandbox"
)

// podHead is the size of what a pod has beside its words.
const podHead = 1 + 8 + 4 + 3*2

func podSize(p sandbox.Pod) int {
	return podHead + min(len(p.Namespace), maxWord) + min(len(p.Name), maxWord) + min(len(p.UID), maxWord)
}

// appendPod leaves out where the pod's network is: that is nobody's business.
func appendPod(b []byte, p sandbox.Pod) []byte {
	b = append(b, flag(p.HostNetwork, flagHostNetwork))
	b = binary.BigEndian.AppendUint64(b, uint64(p.Created.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(p.Created.Nanosecond()))
	for _, word := range []string{p.Namespace, p.Name, p.UID} {
		b = appendText(b, word, maxWord)
	}
	return b
}

func appendText(b []byte, s string, limit int) []byte {
	s = clip(s, limit)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func clip(s string, limit int) string { return s[:min(len(s), limit)] }

// reader takes a message apart. After the first thing that is missing or too long
// it reads nothing but zeros, and end tells.
type reader struct {
	b       []byte
	bad     bool
	strange bool // of another version
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return nil
	}
	head := r.b[:n]
	r.b = r.b[n:]
	return head
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) text(limit int) string {
	n := int(r.u16())
	if n > limit {
		r.bad = true
	}
	return string(r.take(n))
}

func (r *reader) pod() sandbox.Pod {
	p := sandbox.Pod{HostNetwork: r.u8()&flagHostNetwork != 0}
	seconds, nanos := int64(r.u64()), int64(r.u32())
	p.Created = time.Unix(seconds, nanos).UTC()
	p.Namespace, p.Name, p.UID = r.text(maxWord), r.text(maxWord), r.text(maxWord)
	if p.UID == "" {
		r.bad = true
	}
	return p
}

// head wants a message of this kind.
func (r *reader) head(k kind) {
	r.strange = len(r.b) > 0 && r.b[0] != version
	if r.u8() != version || kind(r.u8()) != k {
		r.bad = true
	}
}

// more tells whether there is something left to read.
func (r *reader) more() bool { return !r.bad && len(r.b) > 0 }

// end wants that all was read, and all was good.
func (r *reader) end() error {
	switch {
	case r.strange:
		return errVersion
	case r.bad || len(r.b) > 0:
		return errMalformed
	}
	return nil
}
