package broker

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// version is that of all messages.
const version = 1

// kind says what a message is.
type kind uint8

const (
	askConnect kind = 1 // a socket, please
	askFind    kind = 2 // is the pod here, and may the port be reached
	askFollow  kind = 3 // all pods, for as long as the connection lasts
	isAnswer   kind = 4
	isState    kind = 5
	isPods     kind = 6
)

const (
	flagHostNetwork = 1 // of a state: the policy allows it; of a pod: it has it
	flagFirst       = 1 // of pods: forget those before
	flagLast        = 2 // of pods: that is all
)

// Limits in bytes.
const (
	questionHead = 8
	maxUID       = 128
	maxText      = 1024    // of people's text, as of stream
	maxWord      = 253     // of a namespace, name or UID
	maxAnswer    = 4 << 10 // two texts and a pod fit
	maxMessage   = 8 << 10
)

var (
	errMalformed = errors.New("message of the broker's protocol cannot be read")
	errVersion   = &stream.Error{Code: stream.Unsupported, Text: "broker and agent are of different versions: restart the pod"}
)

// question is what a client asks.
type question struct {
	kind kind
	port uint16
	wait time.Duration // how long it may take
	uid  string
}

func appendQuestion(b []byte, q question) []byte {
	b = append(b, version, byte(q.kind))
	b = binary.BigEndian.AppendUint16(b, q.port)
	b = binary.BigEndian.AppendUint32(b, uint32(max(0, min(q.wait.Milliseconds(), 1<<32-1))))
	return append(b, clip(q.uid, maxUID+1)...) // one that is too long must not become another one
}

// readQuestion reads what a stranger sent: nothing of it is taken for granted but
// that it is not longer than a message.
func readQuestion(b []byte) (question, error) {
	if len(b) > 0 && b[0] != version {
		return question{}, errVersion
	}
	if len(b) < questionHead || len(b) > questionHead+maxUID {
		return question{}, errMalformed
	}
	q := question{
		kind: kind(b[1]), port: binary.BigEndian.Uint16(b[2:]),
		wait: time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Millisecond, uid: string(b[questionHead:]),
	}
	switch {
	case q.kind != askConnect && q.kind != askFind && q.kind != askFollow,
		q.kind == askConnect && q.port == 0,
		q.kind == askFollow && (q.uid != "" || q.port != 0):
		return question{}, errMalformed
	}
	return q, nil
}

// answer is what the broker says of one pod and port.
type answer struct {
	code  stream.Code
	text  string // what a peer may be told
	cause string // what a log may be told besides
	pod   sandbox.Pod
}

func appendAnswer(b []byte, a answer) []byte {
	b = append(b, version, byte(isAnswer))
	b = binary.BigEndian.AppendUint16(b, uint16(a.code))
	b = appendText(b, a.text, maxText)
	b = appendText(b, a.cause, maxText)
	if a.pod.UID != "" {
		b = appendPod(b, a.pod)
	}
	return b
}

func readAnswer(b []byte) (answer, error) {
	r := &reader{b: b}
	r.head(isAnswer)
	a := answer{code: stream.Code(r.u16()), text: r.text(maxText), cause: r.text(maxText)}
	if r.more() {
		a.pod = r.pod()
	}
	return a, r.end()
}

// state is what the broker says of itself.
type state struct {
	hostNetwork bool
	trouble     string // why the pods are not known; empty: they are
}

func appendState(b []byte, s state) []byte {
	b = append(b, version, byte(isState), flag(s.hostNetwork, flagHostNetwork))
	return appendText(b, s.trouble, maxText)
}

func readState(b []byte) (state, error) {
	r := &reader{b: b}
	r.head(isState)
	s := state{hostNetwork: r.u8()&flagHostNetwork != 0, trouble: r.text(maxText)}
	return s, r.end()
}

// piece is a part of the list of all pods.
type piece struct {
	first, last bool
	pods        []sandbox.Pod
}

// appendPiece appends as many pods as one message takes and returns the others.
func appendPiece(b []byte, first bool, pods []sandbox.Pod) (msg []byte, rest []sandbox.Pod) {
	b = append(b, version, byte(isPods), flag(first, flagFirst))
	for len(pods) > 0 && len(b)+podSize(pods[0]) <= maxMessage {
		b, pods = appendPod(b, pods[0]), pods[1:]
	}
	if len(pods) == 0 {
		b[2] |= flagLast
	}
	return b, pods
}

func readPiece(b []byte) (piece, error) {
	r := &reader{b: b}
	r.head(isPods)
	flags := r.u8()
	p := piece{first: flags&flagFirst != 0, last: flags&flagLast != 0}
	for r.more() {
		p.pods = append(p.pods, r.pod())
	}
	return p, r.end()
}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}
