package tunnel

import (
	"encoding/binary"
	"io"
	"sync"
	"time"
)

const (
	// batchLimit bounds what waits for the connection. Larger brings nothing:
	// it no longer fits the second-level cache.
	batchLimit = 256 << 10
	// inlineLimit is the size up to which a frame on a quiet connection is
	// written by the caller itself, which spares handing it to the flusher.
	inlineLimit = 4 << 10
	// quietGap is how long ago the last write must be for that.
	quietGap = 10 * time.Microsecond
	// companyWait is how long a frame may wait for the one that is sure to
	// follow it.
	companyWait = 500 * time.Microsecond
)

// outbound is what yamux writes to. Write puts bytes into a bounded buffer and
// returns; what gathers while one write to the connection is under way goes
// out together with the next. A header never goes out without its body, a
// frame that only opens or acknowledges a stream waits a moment for company,
// and a small frame on a quiet connection is written by the caller at once.
type outbound struct {
	w   io.Writer   // TLS, or the bare connection
	rec *recordConn // beneath w

	onError func(error) // called once, without locks held

	mu     sync.Mutex
	room   *sync.Cond
	buf    []byte
	spare  []byte
	busy   bool // somebody writes to w, or the flusher was told to
	header bool // the last 12 bytes of buf are a data header whose body is next
	last   time.Time
	err    error
	expect int // length of a body after which its stream's end follows at once; 0: none

	queued int64 // bytes ever put into buf
	sent   int64 // bytes ever written to w

	waiting bool // the timer runs
	timer   *time.Timer
	wake    chan struct{}
	closed  bool
}

func newOutbound(w io.Writer, rec *recordConn, onError func(error)) *outbound {
	o := &outbound{w: w, rec: rec, onError: onError, wake: make(chan struct{}, 1)}
	o.room = sync.NewCond(&o.mu)
	o.timer = time.AfterFunc(time.Hour, o.companyMissed)
	o.timer.Stop()
	return o
}

// Write never fails: after an error it takes everything and drops it, so that
// writers are let go and only the reading side ends the session (see hold in
// session.go).
func (o *outbound) Write(p []byte) (int, error) {
	o.mu.Lock()
	own := 0 // the header kept back for this very body must not make it wait
	if o.header {
		own = muxHeader
	}
	for len(o.buf) > own && len(o.buf)+len(p) > batchLimit && o.err == nil {
		o.kick()
		o.room.Wait()
	}
	if o.err != nil {
		o.mu.Unlock()
		return len(p), nil //nolint:nilerr // see above
	}
	o.buf = append(o.buf, p...)
	o.queued += int64(len(p))
	if !o.header && isDataHeader(p) {
		o.header = true
		o.mu.Unlock()
		return len(p), nil
	}
	body := o.header
	o.header = false
	company := o.hasCompany(p, body)
	switch {
	case o.busy: // goes with the next flush
	case company:
		o.waitForCompany()
	case len(o.buf) <= inlineLimit && body && o.quiet():
		o.writeInline()
		return len(p), nil
	default:
		o.kick()
	}
	o.mu.Unlock()
	return len(p), nil
}

// hasCompany tells whether another frame is sure to follow p soon.
func (o *outbound) hasCompany(p []byte, body bool) bool {
	if body {
		if o.expect != 0 && len(p) == o.expect {
			o.expect = 0
			return true
		}
		return false
	}
	flags := uint16(0)
	if len(p) == muxHeader && p[1] == typeWindow {
		flags = binary.BigEndian.Uint16(p[2:])
	}
	return flags&(flagSYN|flagACK) != 0 && flags&(flagFIN|flagRST) == 0
}

func (o *outbound) quiet() bool {
	now := time.Now()
	q := now.Sub(o.last) >= quietGap
	o.last = now
	return q
}

// expectEnd says that the next body of n bytes is followed at once by the
// frame that ends its stream; 0 takes it back.
func (o *outbound) expectEnd(n int) {
	o.mu.Lock()
	o.expect = n
	o.mu.Unlock()
}

// writeInline writes buf from the caller. It is called with mu held and
// returns without.
func (o *outbound) writeInline() {
	o.busy = true
	b := o.take(len(o.buf))
	o.mu.Unlock()
	err := o.write(b)
	o.mu.Lock()
	o.written(b, err)
	if o.pending() > 0 && o.err == nil {
		o.wakeFlusher() // stays busy
	} else {
		o.busy = false
	}
	o.room.Broadcast()
	o.mu.Unlock()
	o.report(err)
}

// pending returns how many bytes may be written now: all but a header whose
// body has not come yet.
func (o *outbound) pending() int {
	if o.header {
		return len(o.buf) - muxHeader
	}
	return len(o.buf)
}

// take removes the first n bytes of buf and returns them.
func (o *outbound) take(n int) []byte {
	b := o.buf
	rest := b[n:]
	o.buf = append(o.spare[:0], rest...)
	o.spare = nil
	o.stopTimer()
	return b[:n]
}

func (o *outbound) written(b []byte, err error) {
	o.spare = b[:0]
	if err != nil {
		if o.err == nil {
			o.err = err
		}
		return
	}
	o.sent += int64(len(b))
}

func (o *outbound) write(b []byte) error {
	if len(b) <= 16<<10 {
		_, err := o.w.Write(b)
		return err
	}
	o.rec.hold()
	_, err := o.w.Write(b)
	if ferr := o.rec.flush(); err == nil {
		err = ferr
	}
	return err
}

func (o *outbound) report(err error) {
	if err != nil {
		o.onError(err)
	}
}

// inject puts a whole control frame between two frames.
func (o *outbound) inject(frame []byte) (queued int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.queued
	}
	o.buf = append(o.buf, frame...)
	o.queued += int64(len(frame))
	if o.header { // before the header that waits for its body
		at := len(o.buf) - len(frame) - muxHeader
		hdr := [muxHeader]byte(o.buf[at:])
		copy(o.buf[at:], frame)
		copy(o.buf[at+len(frame):], hdr[:])
	}
	o.kick()
	return o.queued
}

// kick sets the flusher to work. Called with mu held.
func (o *outbound) kick() {
	if !o.busy {
		o.busy = true
		o.wakeFlusher()
	}
}

func (o *outbound) wakeFlusher() {
	o.stopTimer()
	if o.closed {
		return
	}
	select {
	case o.wake <- struct{}{}:
	default: // it was told already
	}
}

func (o *outbound) waitForCompany() {
	if !o.waiting {
		o.waiting = true
		o.timer.Reset(companyWait)
	}
}

func (o *outbound) stopTimer() {
	if o.waiting {
		o.waiting = false
		o.timer.Stop()
	}
}

func (o *outbound) companyMissed() {
	o.mu.Lock()
	if o.waiting {
		o.waiting = false
		if len(o.buf) > 0 {
			o.kick()
		}
	}
	o.mu.Unlock()
}

// run is the flusher. It returns after close.
func (o *outbound) run() {
	for range o.wake {
		o.mu.Lock()
		for o.err == nil {
			n := o.pending()
			if n == 0 {
				break
			}
			b := o.take(n)
			o.mu.Unlock()
			err := o.write(b)
			o.mu.Lock()
			o.written(b, err)
			o.room.Broadcast()
			if err != nil {
				o.mu.Unlock()
				o.report(err)
				o.mu.Lock()
			}
		}
		o.busy = false
		o.room.Broadcast()
		o.mu.Unlock()
	}
}

// fail lets every writer go and drops what is queued.
func (o *outbound) fail(err error) {
	o.mu.Lock()
	if o.err == nil {
		o.err = err
	}
	o.stopTimer()
	o.room.Broadcast()
	o.mu.Unlock()
}

// close ends run. Nothing may be written after it.
func (o *outbound) close() {
	o.mu.Lock()
	if !o.closed {
		o.closed = true
		o.stopTimer()
		close(o.wake)
	}
	o.mu.Unlock()
}

// drain waits until everything queued was written, or until the timeout or an
// error. It tells whether all was written.
func (o *outbound) drain(timeout time.Duration) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	late := false
	t := time.AfterFunc(timeout, func() {
		o.mu.Lock()
		late = true
		o.room.Broadcast()
		o.mu.Unlock()
	})
	defer t.Stop()
	for (o.pending() > 0 || o.busy) && o.err == nil && !late {
		o.kick()
		o.room.Wait()
	}
	return o.err == nil && !late
}

// progress returns how many bytes were queued and written so far, and gives
// spare memory back when nothing is queued.
func (o *outbound) progress() (queued, sent int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.busy && len(o.buf) == 0 {
		o.buf, o.spare = nil, nil
		o.rec.trim()
	}
	return o.queued, o.sent
}
