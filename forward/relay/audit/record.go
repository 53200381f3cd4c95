package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Version is that of the schema, in the field v of each line. It changes when a
// field goes or means something else; fields that are added leave it as it is.
const Version = 1

// Event says what a record is about.
type Event string

// Events.
const (
	// StreamOpen is a connection that the pod has accepted.
	StreamOpen Event = "stream-open"
	// StreamEnd is the end of one, with what it carried.
	StreamEnd Event = "stream-end"
	// StreamRefused is a connection that did not come about, whoever refused it.
	StreamRefused Event = "stream-refused"
	// AccessRefused is somebody who was not let in, or not any more: a peer without a
	// good credential, or a request that was refused before it asked for a connection.
	AccessRefused Event = "access-refused"
)

// Limits of what a record holds. What is longer is cut.
const (
	maxString = 512
	maxReason = 1024
	maxGroups = 32
)

// Record is one line. What is empty or 0 is left out, but for the numbers of a
// StreamEnd. Strings may come from anybody: they are cut to a length and escaped.
type Record struct {
	Time  time.Time // zero: when it was handed in
	Event Event

	Stream string // id of the stream, as in the logs of client, relay and agent
	Trace  string // id of the trace it belongs to: 32 hexadecimal digits
	Door   string // the way in
	Role   string // of a peer that is no user: node or joiner

	User   string
	Groups []string // more than 32 are counted only
	From   string   // the address that the connection came from

	Namespace, Pod, UID string
	Port                uint16
	Node                string
	Agent               string // the address of the agent's tunnel
	Policy              string // what the policy said, and by which rule

	Code      string // how it ended, or why it was refused; docs/audit.md lists them
	Reason    string // the same for people
	StoppedBy string // who ended it, if somebody did

	Started time.Time // of a StreamEnd
	Up      int64     // payload from client to pod, in bytes
	Down    int64     // and back
}

// line is a Record as it is written.
type line struct {
	Version    int      `json:"v"`
	Time       string   `json:"time"`
	Event      Event    `json:"event"`
	Relay      string   `json:"relay,omitempty"`
	Stream     string   `json:"stream,omitempty"`
	Trace      string   `json:"trace,omitempty"`
	Door       string   `json:"door,omitempty"`
	Role       string   `json:"role,omitempty"`
	User       string   `json:"user,omitempty"`
	Groups     []string `json:"groups,omitempty"`
	MoreGroups int      `json:"more_groups,omitempty"`
	From       string   `json:"from,omitempty"`
	Namespace  string   `json:"namespace,omitempty"`
	Pod        string   `json:"pod,omitempty"`
	UID        string   `json:"uid,omitempty"`
	Port       uint16   `json:"port,omitempty"`
	Node       string   `json:"node,omitempty"`
	Agent      string   `json:"agent,omitempty"`
	Policy     string   `json:"policy,omitempty"`
	Code       string   `json:"code,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	StoppedBy  string   `json:"stopped_by,omitempty"`
	Started    string   `json:"started,omitempty"`
	Seconds    *float64 `json:"seconds,omitempty"`
	Up         *int64   `json:"bytes_up,omitempty"`
	Down       *int64   `json:"bytes_down,omitempty"`
	LeftOut    int64    `json:"left_out,omitempty"`
}

// entry is a record on its way to the writer.
type entry struct {
	Record
	leftOut int64 // records of this event that were too many before it
}

// appendLine appends the line of a record to b, with its end.
func appendLine(b []byte, relay string, e *entry) []byte {
	l := line{
		Version: Version, Time: stamp(e.Time), Event: e.Event, Relay: relay,
		Stream: clip(e.Stream, maxString), Trace: clip(e.Trace, maxString), Door: clip(e.Door, maxString), Role: e.Role,
		User: clip(e.User, maxString), From: clip(e.From, maxString),
		Namespace: clip(e.Namespace, maxString), Pod: clip(e.Pod, maxString), UID: clip(e.UID, maxString), Port: e.Port,
		Node: clip(e.Node, maxString), Agent: clip(e.Agent, maxString), Policy: clip(e.Policy, maxString),
		Code: clip(e.Code, maxString), Reason: clip(e.Reason, maxReason), StoppedBy: clip(e.StoppedBy, maxString),
		LeftOut: e.leftOut,
	}
	for _, g := range e.Groups[:min(len(e.Groups), maxGroups)] {
		l.Groups = append(l.Groups, clip(g, maxString))
	}
	l.MoreGroups = len(e.Groups) - len(l.Groups)
	if e.Event == StreamEnd {
		took := math.Round(e.Time.Sub(e.Started).Seconds()*1e6) / 1e6
		l.Started, l.Seconds, l.Up, l.Down = stamp(e.Started), &took, &e.Up, &e.Down
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(&l) // strings and numbers: it cannot fail
	return escape(b, buf.Bytes())
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

// clip cuts s to n bytes, between two characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// escape appends JSON to b and writes as escapes what JSON allows and a terminal
// may obey: control characters above ASCII and what turns the direction of text.
// Outside of strings there is nothing but ASCII.
func escape(b, text []byte) []byte {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		switch {
		case r < 0x7f:
			b = append(b, text[i])
		case unicode.IsPrint(r):
			b = append(b, text[i:i+n]...)
		case r > 0xffff: // two halves, as in UTF-16
			r -= 0x10000
			b = fmt.Appendf(b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
		i += n
	}
	return b
}
