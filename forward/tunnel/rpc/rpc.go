// Package rpc runs gRPC on streams of a tunnel session.
//
// A session must not be handed to gRPC as a listener, because a gRPC server
// closes the listener it serves and would end every forwarded connection on
// the session with it. So the two ends meet gRPC one stream at a time: the
// caller gives [Dial] a way to open a stream, and the one who accepts streams
// puts those of the control kind into a [Listener] with Deliver, together with
// the identity that the session has proved. Handlers ask for that identity
// with [Peer].
//
// The package speaks plain HTTP/2 inside: the session beneath it is already
// TLS. It knows no session type, only net.Conn, and is not meant for
// connections that leave the process unprotected.
package rpc

import "time"

const (
	// MaxMessage is the largest message in bytes that either end sends or
	// accepts unless the caller says otherwise: 1 MiB.
	MaxMessage = 1 << 20

	// maxHeaderList bounds the metadata of one call, in bytes as HTTP/2 counts
	// them. Culvert's own calls carry none.
	maxHeaderList = 8 << 10

	// bufferSize is the read and the write buffer of one connection in bytes; gRPC
	// itself gives the write buffer back while nothing is written.
	// A relay holds one connection for each agent: gRPC's default of 32 KiB
	// each way would cost more than the agent's whole record.
	bufferSize = 4 << 10

	// streamWindow and connWindow are the HTTP/2 windows in bytes. They are
	// fixed, since otherwise gRPC sends pings to measure the path and grows
	// them to 16 MiB. The tunnel beneath has windows of its own.
	streamWindow = 128 << 10
	connWindow   = 256 << 10

	// maxCalls is the most calls that one peer may have open on one stream of
	// a session. An agent needs three, a client a handful.
	maxCalls = 64

	// handshakeTimeout bounds how long a peer may take from the opened stream
	// to the end of the HTTP/2 preface, at both ends.
	handshakeTimeout = 10 * time.Second

	// idleTimeout is how long a client connection without a call is kept. It
	// also ends the reconnecting that gRPC does by itself after a failure.
	idleTimeout = time.Minute

	// minBackoff and maxBackoff bound the pause between two attempts to open a
	// stream after a failure. Calls made in the pause fail at once.
	minBackoff = time.Second
	maxBackoff = 30 * time.Second
)
