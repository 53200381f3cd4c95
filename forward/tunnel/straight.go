package tunnel

import "time"

// straightLimit bounds what is taken out of a stream, and sent, at once, so that
// others get their turn.
const straightLimit = 128 << 10

// straight sends n bytes of the chunks from c on, straightLimit at most, as frames of
// a stream, and returns when they are sealed and the chunks may be touched again. If
// nobody else writes, the caller does, and may wait for the connection meanwhile;
// otherwise it lends the chunks to who writes, and waits for done, which holds one.
// After an error everything is taken and dropped.
func (o *outbound) straight(id uint32, c *chunk, n int, done chan struct{}) {
	size := framed(c, n)
	o.mu.Lock()
	for o.busy && !o.next.empty() && !o.next.fits(size) && o.err == nil {
		o.room.Wait()
	}
	if o.err != nil {
		o.mu.Unlock()
		return
	}
	if o.busy {
		o.lend(id, c, n, done)
		return
	}
	o.queued += int64(size)
	o.busy = true
	b := o.take()
	o.mu.Unlock()
	err := o.flushWith(b, id, c, n)
	o.mu.Lock()
	o.written(b, err)
	if err == nil {
		o.sent += int64(size)
	}
	o.last = time.Now()
	o.handBack(false)
	o.mu.Unlock()
	o.report(err)
}

// lend is straight while somebody else writes. It is called with mu held and returns
// without.
func (o *outbound) lend(id uint32, c *chunk, n int, done chan struct{}) {
	small := n <= inlineLimit && n <= c.w-c.r
	if small { // to copy it costs less than to wait
		o.queue(id, c.buf[c.r:c.r+n])
	} else {
		o.queued += int64(framed(c, n))
		o.next.lend(id, c, n, done)
	}
	o.room.Signal() // there may be room for another
	o.mu.Unlock()
	if !small {
		<-done
	}
}

// flushWith is flush with chunks behind b.
func (o *outbound) flushWith(b batch, id uint32, c *chunk, n int) error {
	o.rec.hold()
	err := o.seal(b)
	if err == nil {
		err = o.sealChunks(id, c, n)
	}
	if ferr := o.rec.flush(); err == nil {
		err = ferr
	}
	return err
}
