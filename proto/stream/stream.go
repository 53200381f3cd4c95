// Package stream is the wire format of Culvert's data plane, written by hand
// because it is four small messages: Hello opens a session, Open asks for a
// stream, Reply answers either, and frames carry the bytes of a forwarded
// connection with an end that can be told from an accident. PROTOCOL.md in the
// directory above is the same in prose, with test vectors in testdata.
//
// The package knows bytes only: no sockets, no deadlines, no goroutines. A
// caller that reads from a peer sets the deadline. Readers take exactly one
// message and never a byte more, check every length before they allocate, and
// hold at most one message in memory. Writers make exactly one Write.
//
// What a peer got wrong is an *Error with code Malformed or Unsupported somewhere
// in the chain, ready to be sent back; see CodeOf. A message that stops half
// way is io.ErrUnexpectedEOF; io.EOF means that not a single byte came.
package stream

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Version is the highest version of the protocol this package speaks. Versions
// count from 1.
const Version = 1

// Names for the TLS application-layer protocol negotiation: one port of a relay
// serves agents and clients, and the name says which one dials. Each session is
// one or the other for its whole life.
const (
	ALPNAgent  = "culvert-agent/1"
	ALPNClient = "culvert-client/1"
)

// Limits in bytes. Writers refuse to exceed them, readers refuse before they
// allocate. Texts of a Reply or a RESET are the exception: they are for people
// and are cut to MaxText when written.
const (
	MaxNamespace = 63
	MaxPod       = 253
	MaxUID       = 128
	MaxUser      = 256
	MaxText      = 1024
	MaxToken     = 16 << 10
	MaxOpen      = 4096 // a whole Open, head and fields that are not known yet included
)

// Kind says what an Open asks for.
type Kind uint8

// Kinds of streams. Numbers are never reused.
const (
	KindForward Kind = 1 // a TCP connection to a port of a pod; answered by a Reply, then frames
	KindControl Kind = 2 // gRPC; its bytes follow the Open at once, with no Reply and no frames
	KindAPI     Kind = 4 // relay to agent: the cluster's API server; answered by a Reply, then bytes without frames
)

// String returns the name of the kind for logs and metrics.
func (k Kind) String() string {
	switch k {
	case KindForward:
		return "forward"
	case KindControl:
		return "control"
	case KindAPI:
		return "api"
	}
	return "kind-" + strconv.Itoa(int(k))
}

// ID names one stream in the logs of everyone it passes. It is random and says
// nothing about who made it; it is not a credential.
type ID [16]byte

// NewID returns a random ID.
func NewID() ID {
	var id ID
	rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	return id
}

// String returns the ID as 32 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// malformed is what a reader returns for a message no version allows.
func malformed(format string, args ...any) error {
	return &Error{Code: Malformed, Text: fmt.Sprintf(format, args...)}
}

// unsupported is what a reader returns for a message another version may allow.
func unsupported(format string, args ...any) error {
	return &Error{Code: Unsupported, Text: fmt.Sprintf(format, args...)}
}

// speaks turns the highest version of a peer into the one both speak.
func speaks(peer uint8) (uint8, error) {
	if peer == 0 {
		return 0, malformed("version 0")
	}
	return min(peer, Version), nil
}

// readHead fills b with the first bytes of a message. A stream that ends before
// the first byte is a plain io.EOF: there was no message.
func readHead(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	return err
}

// readRest returns the n bytes that follow a head, which promised them.
func readRest(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}

// during adds the operation to err, except to the bare io.EOF that callers use
// as the mark of "nothing came".
func during(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return fmt.Errorf("%s: %w", op, err)
}

// writeOnce writes a whole message with one Write.
func writeOnce(w io.Writer, b []byte) error {
	n, err := w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}
