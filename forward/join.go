package forward

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// Joiner joins connections in pairs and keeps the buffers they share. The zero value is ready. A
// process needs one; it may be used by any number of goroutines and must not be copied.
type Joiner struct {
	pool sync.Pool // of *buffer
	lent atomic.Int64
}

// Live counts the payload bytes of a Join while it runs. Anybody may read it at any time.
type Live struct {
	AtoB atomic.Int64
	BtoA atomic.Int64
}

// Join carries bytes between a and b until both directions have ended, and takes both connections over: when it
// returns, everything it started has ended and both are closed.
//
// The end of one side finishes the other (CloseWrite), and the opposite direction stays open without a time
// limit of its own. Any error of a read or a write, and the end of ctx, resets both sides with that cause; so
// does an abort by a side that had finished, at once if it is an AbortWaiter and at the next write if not.
// A failed write is an error and not a half-close: the other side has to learn that its data went nowhere.
//
// The error is nil only if both sides finished. Otherwise it is the first cause: what the Conn returned, or
// context.Cause(ctx). Stats are right in either case. live may be nil.
func (j *Joiner) Join(ctx context.Context, a, b Conn, live *Live) (Stats, error) {
	p := &pair{a: a, b: b}
	p.ab.init(j, a, b)
	p.ba.init(j, b, a)
	if live != nil {
		p.ab.live, p.ba.live = &live.AtoB, &live.BtoA
	}

	var canceled, back sync.WaitGroup
	canceled.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer canceled.Done()
		p.abort(context.Cause(ctx))
	})
	back.Go(func() { p.carry(&p.ba) })
	p.carry(&p.ab)
	back.Wait()
	if stop() {
		canceled.Done()
	}
	canceled.Wait()
	return Stats{AtoB: p.ab.moved, BtoA: p.ba.moved}, p.err
}

// pair is one running Join.
type pair struct {
	a, b   Conn
	ab, ba pump
	ended  atomic.Int32 // directions that finished
	once   sync.Once    // the pair is closed or aborted, never both
	err    error        // the verdict; written in once
}

// carry runs one direction to its end, and then watches on its source for as long as the other direction runs.
// The direction that finishes last closes both connections.
func (p *pair) carry(d *pump) {
	err := d.run()
	if err == nil && p.ended.Add(1) == 2 {
		p.close()
		return
	}
	if err == nil {
		err = d.watch()
	}
	if err != nil {
		p.abort(err)
	}
}

// close releases both sides after both directions finished.
func (p *pair) close() {
	p.once.Do(func() {
		p.err = errors.Join(p.a.Close(), p.b.Close())
	})
}

// abort resets both sides. The first caller's cause stays: the resets make the other direction fail as
// well, and what it then says is only an echo.
func (p *pair) abort(cause error) {
	p.once.Do(func() {
		p.err = cause
		// What fails here found its connection gone, as it should be.
		_ = p.a.Reset(cause)
		_ = p.b.Reset(cause)
		_ = p.a.Close()
		_ = p.b.Close()
	})
}

// pump carries one direction.
type pump struct {
	joiner *Joiner
	src    Conn
	dst    Conn
	lazy   LazyReader  // src, if it can wait without a buffer
	pushes PushReader  // src, if what comes in can be pushed on to try
	try    TryWriter   // dst, if it can be written to without waiting
	frames FrameWriter // dst, if it can use the headroom
	buf    *buffer     // nil while waiting for a lazy source
	moved  int64       // bytes taken by dst
	live   *atomic.Int64

	borrowFunc  func() []byte // made once: a read allocates nothing
	releaseFunc func()
	pushFunc    func([]byte) int
}

func (d *pump) init(j *Joiner, src, dst Conn) {
	d.joiner, d.src, d.dst = j, src, dst
	d.frames, _ = dst.(FrameWriter)
	if lazy, ok := src.(LazyReader); ok {
		d.lazy = lazy
		d.borrowFunc, d.releaseFunc = d.borrow, d.release
	}
	pushes, canPush := src.(PushReader)
	try, canTry := dst.(TryWriter)
	if canPush && canTry && d.lazy != nil {
		d.pushes, d.try, d.pushFunc = pushes, try, d.push
	}
}

// maxEmpty is how many reads in a row may bring neither data nor an error before the source counts as broken.
const maxEmpty = 100

// run moves bytes until src ends, and then finishes dst. It returns nil if the direction finished.
func (d *pump) run() error {
	defer d.release()
	for empty := 0; empty < maxEmpty; empty++ {
		n, readErr := d.read()
		if n > 0 {
			empty = 0
			if err := d.write(n); err != nil {
				return err
			}
		}
		// Compared as it is: a wrapped io.EOF stands for something that was cut short.
		if readErr == io.EOF {
			return d.finish()
		}
		if readErr != nil {
			return readErr
		}
	}
	return io.ErrNoProgress
}

// read waits for data and puts it behind the headroom of d.buf.
func (d *pump) read() (int, error) {
	if d.pushes != nil {
		return d.pushes.ReadPush(d.borrowFunc, d.releaseFunc, d.pushFunc)
	}
	if d.lazy != nil {
		return d.lazy.ReadLazy(d.borrowFunc, d.releaseFunc)
	}
	return d.src.Read(d.borrow())
}

// write hands n bytes of payload to dst, and the buffer back unless the next read needs it at once.
func (d *pump) write(n int) (err error) {
	var w int
	if d.frames != nil {
		w, err = d.frames.WriteFrame(d.buf[:Headroom+n])
	} else {
		w, err = d.dst.Write(d.buf[Headroom : Headroom+n])
	}
	d.count(w)
	if err == nil && w < n {
		err = io.ErrShortWrite
	}
	if d.lazy != nil {
		d.release()
	}
	return err
}

// push is write for what comes in while read waits: it takes what dst takes at once.
func (d *pump) push(p []byte) int {
	w := d.try.TryWrite(p)
	d.count(w)
	return w
}

func (d *pump) count(w int) {
	if w > 0 {
		d.moved += int64(w)
		if d.live != nil {
			d.live.Add(int64(w))
		}
	}
}

// finish tells dst that src has ended.
func (d *pump) finish() error {
	err := d.dst.CloseWrite()
	// dst is gone already. Whether that is an abort or only a peer that had sent its own end and
	// left is for the opposite direction to say, which reads dst to its last byte: data and an end that
	// arrived before the reset are still delivered.
	if errors.Is(err, ErrReset) {
		return nil
	}
	return err
}

// watch waits until the finished source is aborted after all, and returns the reason; or nil when both sides
// have been closed, or if the source cannot tell.
func (d *pump) watch() error {
	if w, ok := d.src.(AbortWaiter); ok {
		return w.WaitAbort()
	}
	return nil
}

// borrow returns the payload part of a pooled buffer.
func (d *pump) borrow() []byte {
	if d.buf == nil {
		d.buf = d.joiner.lend()
	}
	return d.buf[Headroom:]
}

// release gives the buffer back, if one is held.
func (d *pump) release() {
	if d.buf != nil {
		d.joiner.takeBack(d.buf)
		d.buf = nil
	}
}
