package forward

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
)

// errFinished is what Write returns after CloseWrite.
var errFinished = errors.New("write after CloseWrite")

// ending remembers how the directions of one connection ended. It exists because the layers below do not:
// a kernel reports a reset once, to whoever asks first, and afterwards the same socket reads as finished.
type ending struct {
	finished atomic.Bool // CloseWrite was called; set before it takes effect

	mu       sync.Mutex
	eof      bool  // the peer's end has been read
	cause    error // the first error; it answers every later call
	released bool  // Close or Reset has taken the connection down
}

// broke notes err as the reason why the connection no longer works, unless there is one already, and
// returns the reason that stands. A passed deadline breaks nothing.
func (e *ending) broke(err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cause != nil {
		return e.cause
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		e.cause = err
	}
	return err
}

// standing returns the reason why the connection no longer works, or otherwise if it still does.
func (e *ending) standing(otherwise error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cause != nil {
		return e.cause
	}
	return otherwise
}

// aborted returns the reason why the connection was aborted, or nil if it was not.
func (e *ending) aborted() error {
	if err := e.standing(nil); err != net.ErrClosed { //nolint:errorlint // as it is: closed after both ends
		return err
	}
	return nil
}

// readEOF notes the end of the reading direction and returns io.EOF, or the reason why the connection
// broke before: an end that shows only after a break is not the peer's.
func (e *ending) readEOF() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cause != nil {
		return e.cause
	}
	e.eof = true
	return io.EOF
}

// sawEOF reports whether the end of the reading direction was read and still stands.
func (e *ending) sawEOF() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.eof && e.cause == nil
}

// takeDown marks the connection as released because of cause. Only the first call returns true, and its
// caller frees what is beneath.
func (e *ending) takeDown(cause error) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.released {
		return false
	}
	e.released = true
	if e.cause == nil {
		e.cause = cause
	}
	return true
}

// clean reports whether both directions finished, so that closing loses nothing.
func (e *ending) clean() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.eof && e.finished.Load() && e.cause == nil
}
