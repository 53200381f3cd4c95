package tunnel

import "time"

// straightLimit bounds what is taken out of a stream, and sent, at once, so that
// others get their turn.
const straightLimit = 128 << 10

// straight sends n bytes of the chunks from c on, straightLimit at most, as frames of
// a stream, and moves their read marks. If nobody else writes, they are
// sealed where they lie and written by the caller, who may wait for the connection
// meanwhile; otherwise they are copied and go with the rest. After an error
// everything is taken and dropped.
func (o *outbound) straight(id uint32, c *chunk, n int) {
	o.mu.Lock()
	if o.busy || o.err != nil {
		o.mu.Unlock()
		for ; n > 0; c = c.next {
			for c.r < c.w && n > 0 {
				m := min(c.w-c.r, muxFrame, n)
				o.frame(id, c.buf[c.r:c.r+m], false)
				c.r += m
				n -= m
			}
		}
		return
	}
	o.busy = true
	b := o.take()
	before := o.queued
	for left, at := n, c; left > 0; at = at.next {
		m := min(at.w-at.r, left)
		o.queued += int64(m + (m+muxFrame-1)/muxFrame*muxHeader)
		left -= m
	}
	framed := o.queued - before
	o.mu.Unlock()
	err := o.seal(b, id, c, n)
	o.mu.Lock()
	o.written(b, err)
	if err == nil {
		o.sent += framed
	}
	o.last = time.Now()
	o.handBack(false)
	o.mu.Unlock()
	o.report(err)
}

// seal writes b and then the frames.
func (o *outbound) seal(b []byte, id uint32, c *chunk, n int) (err error) {
	o.rec.hold()
	if len(b) > 0 {
		_, err = o.w.Write(b)
	}
	for ; n > 0 && err == nil; c = c.next {
		for c.r < c.w && n > 0 && err == nil {
			m := min(c.w-c.r, muxFrame, n)
			err = o.sealFrame(id, c.buf[c.r-muxHeader:c.r+m])
			c.r += m
			n -= m
		}
	}
	if ferr := o.rec.flush(); err == nil {
		err = ferr
	}
	return err
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
