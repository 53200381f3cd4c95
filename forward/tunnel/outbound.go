package tunnel

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"
)

const (
	// batchLimit bounds what waits for the connection. Larger brings nothing:
	// it no longer fits the second-level cache.
	batchLimit = 256 << 10
	// controlLimit bounds what control frames may add to that: they do not wait
	// for room. Only a peer that reads nothing and asks for much gets there.
	controlLimit = 256 << 10
	// inlineLimit is the size up to which a frame on a quiet connection is
	// written by the caller itself, which spares handing it to the flusher.
	inlineLimit = 4 << 10
	// quietGap is how long ago the last write must be for that.
	quietGap = 10 * time.Microsecond
	// companyWait is how long a frame may wait for the one that is sure to
	// follow it.
	companyWait = 500 * time.Microsecond
)

var errUnread = errors.New("peer reads nothing of what it asks for")

// outbound is where frames go out. Whole frames are put into a bounded buffer;
// what gathers while one write to the connection is under way goes out together
// with the next. A frame that only opens or acknowledges a stream waits a moment
// for company, and a small frame on a quiet connection is written by the caller
// at once.
type outbound struct {
	w   io.Writer   // TLS, or the bare connection
	rec *recordConn // beneath w

	onError func(error) // called once, without locks held

	mu    sync.Mutex
	room  *sync.Cond // writers wait here, the first comes first
	idle  *sync.Cond // drain waits here
	buf   []byte
	spare []byte
	busy  bool // somebody writes to w, or the flusher was told to
	last  time.Time
	err   error

	queued int64 // bytes ever put into buf
	sent   int64 // bytes ever written to w

	waiting bool // the timer runs
	timer   *time.Timer
	wake    chan struct{}
	closed  bool
}

func newOutbound(w io.Writer, rec *recordConn, onError func(error)) *outbound {
	o := &outbound{w: w, rec: rec, onError: onError, wake: make(chan struct{}, 1)}
	o.room, o.idle = sync.NewCond(&o.mu), sync.NewCond(&o.mu)
	o.timer = time.AfterFunc(time.Hour, o.companyMissed)
	o.timer.Stop()
	return o
}

// frame sends a frame of data, of muxFrame bytes at most. It waits while the
// connection is full. company says that something is sure to follow at once.
// After an error everything is taken and dropped.
func (o *outbound) frame(id uint32, body []byte, company bool) {
	o.mu.Lock()
	for len(o.buf) > 0 && len(o.buf)+muxHeader+len(body) > batchLimit && o.err == nil {
		o.kick()
		o.room.Wait()
	}
	if o.err != nil {
		o.mu.Unlock()
		return
	}
	o.buf = appendHeader(o.buf, typeData, 0, id, uint32(len(body)))
	o.buf = append(o.buf, body...)
	o.queued += int64(muxHeader + len(body))
	o.room.Signal() // there may be room for another
	o.leave(company, true)
}

// tryFrame is frame if there is room, and otherwise false.
func (o *outbound) tryFrame(id uint32, body []byte) bool {
	o.mu.Lock()
	if o.err != nil || len(o.buf)+muxHeader+len(body) > batchLimit {
		o.mu.Unlock()
		return false
	}
	o.buf = appendHeader(o.buf, typeData, 0, id, uint32(len(body)))
	o.buf = append(o.buf, body...)
	o.queued += int64(muxHeader + len(body))
	o.leave(false, false)
	return true
}

// Write sends a control frame, as yamux does. It never fails, and does not wait.
func (o *outbound) Write(p []byte) (int, error) {
	o.control(p, opens(p))
	return len(p), nil
}

// inject sends a control frame of our own and returns the position of its end
// in all that was ever queued.
func (o *outbound) inject(frame []byte) (queued int64) { return o.control(frame, false) }

func (o *outbound) control(p []byte, company bool) (queued int64) {
	o.mu.Lock()
	if o.err != nil {
		defer o.mu.Unlock()
		return o.queued
	}
	if len(o.buf)+len(p) > batchLimit+controlLimit {
		o.err = errUnread
		o.mu.Unlock()
		o.report(errUnread)
		return 0
	}
	o.buf = append(o.buf, p...)
	o.queued += int64(len(p))
	queued = o.queued
	o.leave(company, false)
	return queued
}

// opens tells whether p only opens or acknowledges a stream: then data is sure
// to follow soon.
func opens(p []byte) bool {
	if len(p) != muxHeader || p[1] != typeWindow {
		return false
	}
	flags := binary.BigEndian.Uint16(p[2:])
	return flags&(flagSYN|flagACK) != 0 && flags&(flagFIN|flagRST) == 0
}

// leave sees to it that buf is written, by the caller if it may wait or does not
// have to. It is called with mu held and returns without.
func (o *outbound) leave(company, mayWait bool) {
	switch {
	case o.busy: // goes with the next flush
	case company:
		o.waitForCompany()
	case len(o.buf) <= inlineLimit && (mayWait || o.rec.prompt()) && o.quiet():
		o.writeInline()
		return
	default:
		o.kick()
	}
	o.mu.Unlock()
}

func (o *outbound) quiet() bool {
	now := time.Now()
	q := now.Sub(o.last) >= quietGap
	o.last = now
	return q
}

// writeInline writes buf from the caller. Where it can, it does not wait: what the
// kernel does not take at once is left to the flusher. It is called with mu held and returns
// without.
func (o *outbound) writeInline() {
	o.busy = true
	b := o.take()
	o.mu.Unlock()
	o.rec.hold()
	_, err := o.w.Write(b)
	kept := o.rec.tryFlush()
	o.mu.Lock()
	o.written(b, err)
	o.handBack(kept)
	o.mu.Unlock()
	o.report(err)
}

// handBack ends what a caller wrote itself. What came meanwhile, or was kept, is for
// the flusher. It is called with mu held.
func (o *outbound) handBack(kept bool) {
	if o.err == nil && (kept || len(o.buf) > 0) {
		o.wakeFlusher() // stays busy
		return
	}
	o.busy = false
	o.idle.Broadcast()
}

// take empties buf and returns what it held.
func (o *outbound) take() []byte {
	b := o.buf
	o.buf, o.spare = o.spare[:0], nil
	o.stopTimer()
	return b
}

func (o *outbound) written(b []byte, err error) {
	o.spare = b[:0]
	if err != nil {
		if o.err == nil {
			o.err = err
		}
		o.room.Broadcast()
		return
	}
	o.sent += int64(len(b))
}

// flush writes b, and what an earlier write kept back.
func (o *outbound) flush(b []byte) (err error) {
	o.rec.hold()
	if len(b) > 0 {
		_, err = o.w.Write(b)
	}
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
		for first := true; o.err == nil && (first || len(o.buf) > 0); first = false {
			b := o.take()
			o.room.Signal()
			o.mu.Unlock()
			err := o.flush(b)
			o.mu.Lock()
			o.written(b, err)
			if err != nil {
				o.mu.Unlock()
				o.report(err)
				o.mu.Lock()
			}
		}
		o.busy = false
		o.idle.Broadcast()
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
	o.idle.Broadcast()
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
		o.idle.Broadcast()
		o.mu.Unlock()
	})
	defer t.Stop()
	for (len(o.buf) > 0 || o.busy) && o.err == nil && !late {
		o.kick()
		o.idle.Wait()
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
