// Package forward says what one forwarded connection is and how two of them are joined.
//
// A [Conn] has two directions that end on their own, and two verbs that must never be mixed up:
// to finish (CloseWrite: everything was sent, the answer may still come) and to abort (Reset: what
// was sent may be lost, and the peer has to know). A [Joiner] carries the bytes and the ends of one
// Conn to another and keeps that difference: an end becomes an end, everything else becomes a reset.
//
// The package knows TCP and a reader with a writer; other rooms bring their own Conn. Whoever
// implements one runs the suite in forwardtest over it.
package forward

import (
	"errors"
	"fmt"
	"io"
)

// Conn is one forwarded connection: a byte stream in each direction, each with an end of its own.
//
// At most one goroutine reads and at most one writes at a time; CloseWrite counts as a write. Reset
// and Close may be called at any time from any goroutine, also while a Read or a Write is blocked.
// Who holds a Conn owns it and must end it with Close or Reset.
//
// An error after an abort, by this side or by the peer, satisfies errors.Is(err, [ErrReset])
// wherever the implementation can tell.
type Conn interface {
	// Read reads at least one byte or fails. It returns io.EOF itself, not wrapped, if and only if
	// the peer finished this direction, and then every further Read returns io.EOF as well, unless
	// the connection was aborted in between. A stream that was cut short is io.ErrUnexpectedEOF or
	// another error, so that a truncated transfer never looks like a complete one. Errors of a broken
	// connection stay.
	Read(p []byte) (int, error)

	// Write writes all of p or returns an error with the number of bytes taken. It does not keep p.
	// An empty p does nothing. Taken is not delivered: only the peer's answer proves that.
	// Write after CloseWrite is an error.
	Write(p []byte) (int, error)

	// CloseWrite finishes the writing direction: the peer reads everything written before and then
	// io.EOF. Reading goes on for as long as the peer sends. A second call does nothing.
	CloseWrite() error

	// Reset aborts both directions. Blocked Reads and Writes of this side return, and so do all
	// later ones, with an error that holds cause (nil means no cause is known). The peer's calls fail
	// too, and not with io.EOF unless this side had finished before. Data on its way may be lost. Reset
	// does not wait for the peer and may be called any number of times: the first cause stays.
	Reset(cause error) error

	// Close releases the connection after both directions ended: the peer's io.EOF was read and
	// CloseWrite returned nil. What was written before is still delivered. Earlier than that, Close
	// is Reset(net.ErrClosed). Close is idempotent.
	Close() error
}

// LazyReader is an optional part of a Conn that can wait for data without holding a buffer.
// Thousands of idle connections then cost no buffers at all.
type LazyReader interface {
	// ReadLazy waits until there is something to read, then calls borrow for a buffer (never empty)
	// and reads once into it, from its first byte on. If there turns out to be nothing after all, it calls
	// release, which gives the buffer back, before it waits again. At most one buffer is out at any time.
	//
	// With n > 0 the caller owns the last borrowed buffer, and n bytes of it are filled. With n == 0
	// every borrowed buffer has been released. The errors are those of Conn.Read. ReadLazy and Read may be
	// mixed, by one reader at a time; ReadLazy calls neither function after it has returned.
	ReadLazy(borrow func() []byte, release func()) (n int, err error)
}

// ReadyReader is an optional part of a Conn that can read without waiting.
type ReadyReader interface {
	// ReadReady is Read, but for one thing: where Read would wait, it returns 0 and
	// no error. p is not empty.
	ReadReady(p []byte) (n int, err error)
}

// PushReader is an optional part of a Conn whose data comes in on a goroutine that serves many: to wake the one
// that waits for this data costs more than to carry a small piece of it. A [Joiner] uses it if the destination is
// a [TryWriter].
type PushReader interface {
	// ReadPush is ReadLazy, but small pieces of what comes in while it waits may be given to push instead, in order,
	// by another goroutine, and then it waits on. push returns how many bytes it took off the front of p; it does
	// not keep p and never waits. What it leaves ends the wait and is read as ever. push is called only while ReadPush
	// runs, never twice at once, and what it did has happened before ReadPush returns. nil is ReadLazy.
	ReadPush(borrow func() []byte, release func(), push func(p []byte) int) (n int, err error)
}

// TryWriter is an optional part of a Conn that can write without waiting.
type TryWriter interface {
	// TryWrite writes what of p can be written at once, and returns how many bytes that is. It does not keep p. If
	// it is less than all, Write does the rest, or says what is wrong. It counts as a write, but may be called by
	// another goroutine than Write as long as the two do not overlap.
	TryWrite(p []byte) int
}

// AbortWaiter is an optional part of a Conn that notices an abort although nobody reads any more. Without it a
// peer that finished and then died is found out only by the next write, and a half-closed connection that
// waits for its answer could wait for ever on behalf of nobody.
type AbortWaiter interface {
	// WaitAbort takes the place of Read once Read has returned io.EOF: it blocks until the connection is aborted
	// by either side or breaks, and returns that error, never io.EOF. It returns nil as soon as there is nothing to wait
	// for: after a Close that lost nothing, or when the implementation cannot watch any longer.
	WaitAbort() error
}

// Headroom is the number of spare bytes before the payload of a frame given to a [FrameWriter]: the header of a
// frame of ours and that of a multiplexer.
const Headroom = 4 + 12

// MaxFrame is the largest payload, in bytes, that a [Joiner] hands to a [FrameWriter] at once. With its own header,
// and one of the multiplexer for each 16 KiB, it fills four TLS records of 16 KiB exactly.
const MaxFrame = 4*(16384-12) - 4

// FrameWriter is an optional part of a Conn that puts a header before each piece of data. With room for
// the header in front of the payload, a frame is one write and no copy.
type FrameWriter interface {
	// WriteFrame writes the payload b[Headroom:]. b[:Headroom] is scratch: the callee may
	// overwrite it. The rest is as before when it returns, and nobody else may look at it until then. It returns the number of payload bytes taken; otherwise
	// it behaves as Conn.Write does, and it does not keep b. len(b) is at least Headroom and at most
	// Headroom+MaxFrame.
	WriteFrame(b []byte) (int, error)
}

// Stats are the payload bytes of one joined pair, counted when the destination has taken them.
type Stats struct {
	AtoB int64
	BtoA int64
}

// ErrReset is in the chain of every error that comes from an aborted connection, whoever aborted it.
var ErrReset = errors.New("connection reset")

// ResetBy returns the error that an aborted Conn gives to its own user: it satisfies both ErrReset and
// cause. A cause of io.EOF survives only as text, since an aborted stream must not pass for a finished one.
func ResetBy(cause error) error {
	switch {
	case cause == nil:
		return ErrReset
	case errors.Is(cause, io.EOF):
		return fmt.Errorf("%w: %s", ErrReset, cause.Error())
	case errors.Is(cause, ErrReset):
		return cause
	default:
		return fmt.Errorf("%w: %w", ErrReset, cause)
	}
}
