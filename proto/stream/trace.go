package stream

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
)

// MaxTrace is the length of a Trace as text, in bytes.
const MaxTrace = 2 + 1 + 32 + 1 + 16 + 1 + 2

// Trace says to what a stream belongs, for people and their tools: it is the
// traceparent of W3C Trace Context, version 00. The zero value is none.
type Trace struct {
	ID    [16]byte // of everything that was done for one purpose
	Span  [8]byte  // of the step that this stream is part of
	Flags byte     // 1: whoever began it records it
}

// NewTrace returns one that begins here.
func NewTrace() Trace {
	var t Trace
	rand.Read(t.ID[:]) // never fails: crypto/rand ends the process instead
	rand.Read(t.Span[:])
	return t
}

// Child returns a new step of the same trace; of none, a new one.
func (t Trace) Child() Trace {
	if t.IsZero() {
		return NewTrace()
	}
	rand.Read(t.Span[:])
	return t
}

// IsZero tells whether there is none.
func (t Trace) IsZero() bool { return t.ID == [16]byte{} || t.Span == [8]byte{} }

// TraceID returns what tools look for: 32 lower-case hexadecimal digits, or
// nothing.
func (t Trace) TraceID() string {
	if t.IsZero() {
		return ""
	}
	return hex.EncodeToString(t.ID[:])
}

// String returns the value of a traceparent header, empty if there is none.
func (t Trace) String() string {
	if t.IsZero() {
		return ""
	}
	return "00-" + hex.EncodeToString(t.ID[:]) + "-" + hex.EncodeToString(t.Span[:]) + "-" + hex.EncodeToString([]byte{t.Flags})
}

// ParseTrace reads the value of a traceparent header. Of a later version it takes
// what version 00 has too, as the standard wants it. It is false if s is none, and
// then nothing is wrong that anybody must hear of: a trace is thrown away.
func ParseTrace(s string) (t Trace, ok bool) {
	if len(s) < MaxTrace || len(s) > MaxTrace && (s[MaxTrace] != '-' || s[:2] == "00") ||
		s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" || strings.ToLower(s[:MaxTrace]) != s[:MaxTrace] {
		return Trace{}, false
	}
	var version, flags [1]byte
	for _, part := range []struct {
		to   []byte
		from string
	}{{version[:], s[:2]}, {t.ID[:], s[3:35]}, {t.Span[:], s[36:52]}, {flags[:], s[53:55]}} {
		if _, err := hex.Decode(part.to, []byte(part.from)); err != nil {
			return Trace{}, false
		}
	}
	if t.ID == [16]byte{} || t.Span == [8]byte{} {
		return Trace{}, false
	}
	t.Flags = flags[0]
	return t, true
}
