package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Conn is a forwarded connection on a stream: a forward.Conn in the frames of
// proto/stream. It proves what a bare stream cannot, that its peer finished
// and did not merely vanish: a stream that ends without the frame that says so
// is io.ErrUnexpectedEOF.
//
// The Conn owns its Stream.
type Conn struct {
	// AbortCode is what the peer is told when Reset is given a cause without a
	// code of its own. 0 means stream.Canceled. Set it before use.
	AbortCode stream.Code

	st *Stream

	awaitReply bool // the peer's Reply has not been read yet

	// The reader's.
	hdr     [stream.HeaderSize]byte
	have    int // bytes of hdr
	left    int // payload bytes of the current frame still to come
	readErr error
	gotFin  atomic.Bool
	push    func([]byte) int // of the ReadPush under way
	give    func([]byte) int // givePayload, made once

	// The writer's.
	wmu     sync.Mutex
	ended   atomic.Bool // a frame that ends this direction was sent
	broken  bool        // a frame was sent in part: nothing may follow it
	toldEnd bool

	aborted atomic.Pointer[error] // by this side
	resetBy atomic.Pointer[error] // by the peer
}

var (
	_ forward.Conn        = (*Conn)(nil)
	_ forward.LazyReader  = (*Conn)(nil)
	_ forward.PushReader  = (*Conn)(nil)
	_ forward.FrameWriter = (*Conn)(nil)
	_ forward.AbortWaiter = (*Conn)(nil)
)

// NewConn makes a Conn of a stream on which Open has been sent or read, and
// takes the stream over.
func NewConn(st *Stream) *Conn {
	c := &Conn{st: st}
	c.give = c.givePayload
	return c
}

// ExpectReply says that the peer has yet to answer the Open. The answer is
// then taken by the first Read or by WaitReply; a refusal is a *stream.Error.
// Data may be written before it comes: it is lost if the peer refuses.
func (c *Conn) ExpectReply() { c.awaitReply = true }

// WaitReply waits for the peer's answer to Open. It counts as a Read.
func (c *Conn) WaitReply(ctx context.Context) error {
	if !c.awaitReply {
		return c.readErr
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = c.st.SetReadDeadline(time.Unix(1, 0))
	})
	err := c.reply()
	if !stop() {
		<-interrupted
		_ = c.st.SetReadDeadline(time.Time{})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("wait for the answer to open: %w", context.Cause(ctx))
		}
	}
	if err != nil {
		return c.failRead(err)
	}
	return nil
}

func (c *Conn) reply() error {
	r, err := stream.ReadReply(c.st)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("read the answer to open: %w", io.ErrUnexpectedEOF)
		}
		return err
	}
	c.awaitReply = false
	return r.Err()
}

// Read reads what the peer wrote, a frame at a time.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, c.readErr
	}
	if err := c.frame(); err != nil {
		return 0, err
	}
	return c.payload(p)
}

// ReadLazy waits for a frame and only then borrows a buffer for its payload.
func (c *Conn) ReadLazy(borrow func() []byte, release func()) (int, error) {
	return c.ReadPush(borrow, release, nil)
}

// frame reads up to the payload of a DATA frame, or to the end.
func (c *Conn) frame() error {
	for c.readErr == nil && c.left == 0 {
		if err := c.header(); err != nil {
			return c.failRead(err)
		}
	}
	return c.readErr
}

func (c *Conn) header() error {
	if c.awaitReply {
		if err := c.reply(); err != nil {
			return err
		}
	}
	if c.push != nil && c.have == 0 {
		if err := c.st.awaitPush(c.give); err != nil {
			return c.cut(err)
		}
		if c.left > 0 { // push left something of a frame
			return nil
		}
	}
	n, err := io.ReadFull(c.st, c.hdr[c.have:])
	c.have += n
	if err != nil {
		return c.cut(err)
	}
	c.have = 0
	typ, n, err := stream.ParseHeader(c.hdr[:])
	if err != nil {
		return err
	}
	switch typ {
	case stream.FrameFin:
		c.gotFin.Store(true)
		return io.EOF
	case stream.FrameReset:
		b := make([]byte, n)
		if _, err := io.ReadFull(c.st, b); err != nil {
			return c.cut(err)
		}
		reason, err := stream.ParseReset(b)
		if err != nil {
			return err
		}
		ended := forward.ResetBy(reason)
		c.resetBy.Store(&ended)
		// It ends both directions: let a writer go that waits for credit.
		_ = c.st.SetWriteDeadline(time.Unix(1, 0))
		return ended
	}
	c.left = n
	return nil
}

// cut names what a stream that ended by itself is.
func (c *Conn) cut(err error) error {
	if errors.Is(err, io.EOF) || err == io.ErrUnexpectedEOF { // a wrapped one says more
		return fmt.Errorf("stream from %s ended without its end mark: %w", c.st.RemoteAddr(), io.ErrUnexpectedEOF)
	}
	return err
}

func (c *Conn) payload(p []byte) (int, error) {
	n, err := c.st.Read(p[:min(len(p), c.left)])
	c.left -= n
	if n > 0 {
		return n, nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return 0, c.failRead(c.cut(err))
}

// failRead keeps the error for every later Read. A deadline passes.
func (c *Conn) failRead(err error) error {
	if a := c.aborted.Load(); a != nil {
		err = *a
	}
	if err != os.ErrDeadlineExceeded { //nolint:errorlint // bare by contract
		c.readErr = err
	}
	return err
}

// WaitAbort waits, after the peer finished, for it to abort all the same or
// for the session to be lost.
func (c *Conn) WaitAbort() error {
	err := c.st.waitGone()
	a := c.aborted.Load()
	switch {
	case a == nil:
		return err
	case errors.Is(*a, forward.ErrReset):
		return *a
	}
	return nil // closed after both ends
}

// Write writes p in frames of its own. WriteFrame spares the copy.
func (c *Conn) Write(p []byte) (int, error) {
	written := 0
	buf := make([]byte, forward.Headroom+min(len(p), forward.MaxFrame))
	for written < len(p) {
		n := copy(buf[forward.Headroom:], p[written:])
		m, err := c.WriteFrame(buf[:forward.Headroom+n])
		written += m
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// WriteFrame writes the payload b[forward.Headroom:] as one frame.
func (c *Conn) WriteFrame(b []byte) (int, error) {
	payload := len(b) - forward.Headroom
	if payload <= 0 {
		return 0, nil
	}
	c.wmu.Lock()
	if err := c.mayWrite(); err != nil {
		c.unlock()
		return 0, err
	}
	stream.PutHeader(b[muxHeader:], stream.FrameData, payload)
	n, err := c.st.writeFramed(b)
	if err != nil && n > 0 {
		c.broken = true
	}
	c.unlock()
	if err != nil {
		return max(0, n-stream.HeaderSize), c.writeErr(err)
	}
	return payload, nil
}

func (c *Conn) mayWrite() error {
	switch {
	case c.aborted.Load() != nil:
		return *c.aborted.Load()
	case c.resetBy.Load() != nil:
		return *c.resetBy.Load()
	case c.ended.Load():
		return fmt.Errorf("write after the end: %w", net.ErrClosed)
	case c.broken && c.st.sess.Err() != nil:
		return c.st.sess.Err()
	case c.broken:
		return fmt.Errorf("write after a broken frame: %w", io.ErrShortWrite)
	}
	return nil
}

func (c *Conn) writeErr(err error) error {
	if a := c.aborted.Load(); a != nil {
		return *a
	}
	if r := c.resetBy.Load(); r != nil {
		return *r
	}
	return err
}

// CloseWrite ends this direction.
func (c *Conn) CloseWrite() error {
	c.wmu.Lock()
	defer c.unlock()
	if c.ended.Load() && c.aborted.Load() == nil {
		return nil
	}
	if err := c.mayWrite(); err != nil {
		return err
	}
	var fin [stream.HeaderSize]byte
	stream.PutHeader(fin[:], stream.FrameFin, 0)
	n, err := c.st.WriteLast(fin[:])
	if err != nil {
		c.broken = c.broken || n > 0
		return c.writeErr(err)
	}
	c.ended.Store(true)
	return nil
}
