package tunnel

import "encoding/binary"

// batch is what goes out together: the frames in buf, and what writers lend.
type batch struct {
	buf   []byte
	loans []loan
	lent  int // bytes of loans, with their headers
}

// loan is a piece of a stream that stays with its writer until it was sealed: the
// writer waits for that.
type loan struct {
	at   int // it goes before buf[at:]
	id   uint32
	c    *chunk
	n    int
	done chan<- struct{} // holds one
}

func (b *batch) size() int { return len(b.buf) + b.lent }

func (b *batch) empty() bool { return b.size() == 0 }

// fits tells whether n bytes more are within the limit.
func (b *batch) fits(n int) bool { return b.size()+n <= batchLimit }

// lend adds n bytes of the chunks from c on. done hears when they may be touched again.
func (b *batch) lend(id uint32, c *chunk, n int, done chan<- struct{}) {
	b.loans = append(b.loans, loan{len(b.buf), id, c, n, done})
	b.lent += framed(c, n)
}

// giveBack ends the loans, whatever became of them.
func (b *batch) giveBack() {
	for _, l := range b.loans {
		l.done <- struct{}{}
	}
	clear(b.loans)
	b.loans, b.lent = b.loans[:0], 0
}

// reuse returns b without its content.
func (b *batch) reuse() batch {
	clear(b.loans)
	return batch{buf: b.buf[:0], loans: b.loans[:0]}
}

// framed returns how many bytes of frames n bytes of the chunks from c on make.
func framed(c *chunk, n int) (size int) {
	for ; n > 0; c = c.next {
		m := min(c.w-c.r, n)
		size += m + (m+muxFrame-1)/muxFrame*muxHeader
		n -= m
	}
	return size
}

// take empties next and returns what it held.
func (o *outbound) take() batch {
	b := o.next
	o.next, o.spare = o.spare, batch{}
	o.stopTimer()
	return b
}

// written notes what became of b.
func (o *outbound) written(b batch, err error) {
	if err != nil {
		if o.err == nil {
			o.err = err
		}
		o.drop()
	} else {
		o.sent += int64(b.size())
	}
	o.spare = b.reuse()
}

// drop lets every writer go.
func (o *outbound) drop() {
	o.next.giveBack()
	o.room.Broadcast()
}

// flush writes b, and what an earlier write kept back.
func (o *outbound) flush(b batch) error {
	o.rec.hold()
	err := o.seal(b)
	if ferr := o.rec.flush(); err == nil {
		err = ferr
	}
	return err
}

// seal puts b into records. Each loan ends with its own last record, and if one of
// them fails, all end.
func (o *outbound) seal(b batch) (err error) {
	from := 0
	for _, l := range b.loans {
		if err == nil {
			err = o.records(b.buf[from:l.at])
		}
		if err == nil {
			err = o.sealChunks(l.id, l.c, l.n)
		}
		from = l.at
		l.done <- struct{}{}
	}
	if err == nil {
		err = o.records(b.buf[from:])
	}
	return err
}

// records writes whole frames.
func (o *outbound) records(frames []byte) error {
	for len(frames) > 0 {
		n := record(frames)
		if _, err := o.w.Write(frames[:n]); err != nil {
			return err
		}
		frames = frames[n:]
	}
	return nil
}

// record returns how much of the frames in b should be one record: a large frame has one
// of its own, so that the receiver can leave it where it is; small ones share.
func record(b []byte) (n int) {
	for len(b)-n >= muxHeader {
		size := muxHeader
		if b[n+1] == typeData {
			size += int(binary.BigEndian.Uint32(b[n+8:]))
		}
		if n > 0 && (size > bigChunk/2 || n+size > bigChunk) {
			return n
		}
		n += size
		if size > bigChunk/2 {
			break
		}
	}
	if n > len(b) || n == 0 { // no frames of ours
		return len(b)
	}
	return n
}

// sealChunks writes n bytes of the chunks from c on as frames of a stream.
func (o *outbound) sealChunks(id uint32, c *chunk, n int) error {
	for ; n > 0; c = c.next {
		for at := c.r; at < c.w && n > 0; {
			m := min(c.w-at, muxFrame, n)
			if err := o.sealFrame(id, c.buf[at-muxHeader:at+m]); err != nil {
				return err
			}
			at += m
			n -= m
		}
	}
	return nil
}

// sealFrame writes the frame f, whose header is put in its place for the moment: it
// may belong to something else.
func (o *outbound) sealFrame(id uint32, f []byte) error {
	var under [muxHeader]byte
	copy(under[:], f)
	appendHeader(f[:0], typeData, 0, id, uint32(len(f)-muxHeader))
	_, err := o.w.Write(f)
	copy(f, under[:])
	return err
}
