package tunnel

import (
	"errors"
	"iter"
	"os"
)

// Pieces is data that came in on a stream and was taken out without a copy. Who has
// it owns it, and calls Release when done. The zero value is empty.
type Pieces struct {
	mem  *Memory
	head *chunk
	size int
}

// Len returns how many bytes it is, 128 KiB at most.
func (p *Pieces) Len() int { return p.size }

// All returns the bytes piece by piece, in order. They may be looked at until
// Release, or until they are written to another stream.
func (p *Pieces) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for c := p.head; c != nil; c = c.next {
			if !yield(c.rest()) {
				return
			}
		}
	}
}

// Release gives the memory back. The Pieces is empty then.
func (p *Pieces) Release() {
	if p.head != nil {
		p.mem.takeBack(p.head)
	}
	*p = Pieces{}
}

// ReadPieces waits for data and takes out what is there, without a copy. It is
// otherwise like ReadPush: small pieces that come in while it waits go to push,
// unless that is nil. With an error there are no pieces.
func (st *Stream) ReadPieces(push func(p []byte) int) (Pieces, error) {
	st.reading.Lock()
	defer st.reading.Unlock()
	for {
		if err := st.awaitGiving(push); err != nil {
			return Pieces{}, err
		}
		if p := st.takeOut(); p.size > 0 { // else the stream was ended just now
			return p, nil
		}
	}
}

func (st *Stream) takeOut() Pieces {
	st.mu.Lock()
	p := Pieces{mem: st.in.box.mem, head: st.in.box.detach(straightLimit)}
	for c := p.head; c != nil; c = c.next {
		p.size += c.w - c.r
		st.in.taken += len(c.buf)
	}
	credit := st.consumed(p.size)
	st.mu.Unlock()
	st.giveCredit(credit)
	return p
}

// WritePieces is Write for pieces of another stream. What they hold is undefined
// afterwards.
func (st *Stream) WritePieces(p *Pieces) (int, error) {
	st.writing.Lock()
	defer st.writing.Unlock()
	return st.straight(p.head, p.size)
}

// WriteLastPieces is WriteLast for pieces of another stream.
func (st *Stream) WriteLastPieces(p *Pieces) (int, error) {
	last := p.head
	for last.next != nil {
		last = last.next
	}
	before := p.size - (last.w - last.r)
	if before > 0 {
		n, err := st.WritePieces(&Pieces{head: p.head, size: before})
		if errors.Is(err, ErrHungUp) { // see WriteLast
			return p.size, nil
		}
		if err != nil {
			return n, err
		}
	}
	n, err := st.WriteLast(last.rest())
	return before + n, err
}

// writeFramed is Write for b[muxHeader:], without a copy where that can be. The
// bytes before are overwritten; the others are changed for a moment.
func (st *Stream) writeFramed(b []byte) (int, error) {
	if len(b)-muxHeader <= inlineLimit { // it may share a packet with others
		return st.write(b[muxHeader:], false)
	}
	st.writing.Lock()
	defer st.writing.Unlock()
	st.out.lent = chunk{buf: b, r: muxHeader, w: len(b)}
	defer func() { st.out.lent = chunk{} }()
	return st.straight(&st.out.lent, len(b)-muxHeader)
}

// straight writes n bytes of the chunks from c on. Called with writing held.
func (st *Stream) straight(c *chunk, n int) (written int, err error) {
	for written < n {
		if late(&st.writeBy) {
			return written, os.ErrDeadlineExceeded
		}
		got, err := st.takeCredit(min(n-written, straightLimit), cap(st.out.lent.buf))
		if err != nil {
			return written, err
		}
		for c.r == c.w {
			c = c.next
		}
		st.sess.out.straight(st.id, c, got)
		if d := st.sess.dead.Load(); d != nil { // a dead carrier takes everything
			return written, d
		}
		written += got
	}
	return written, nil
}
