package kubectl

import (
	"net"
	"sync"
	"time"
)

const (
	// batchSize is the most that is written at once: four TLS records, less the head of
	// the largest WebSocket message that does without 64 bit of length. The largest
	// write of a forward.Joiner fits, with its head.
	batchSize = 64<<10 - 4
	// recordSize is the most that a TLS record holds.
	recordSize = 16 << 10
	// shareSize is what one stream gets of a batch while others wait.
	shareSize = batchSize / 2
	// headRoom is kept free in front of a batch, for the head of a message.
	headRoom = 16
	// maxControl is how many bytes of control frames may wait for a client that
	// does not read. With more, its own frames have to wait as well.
	maxControl = 256 << 10
)

// framing is how a session's bytes look on the wire.
type framing interface {
	// fit returns how many bytes of data fit into room bytes of wire.
	fit(room int) int
	// appendData appends p, which fits, as data of a stream.
	appendData(b []byte, id uint32, p []byte) []byte
	// seal makes b[headRoom:] ready to be written, and may use the room in front.
	seal(b []byte) []byte
}

// outbound writes what the streams of one session and the session itself have to
// say. Streams take turns; small frames that wait together leave together.
type outbound struct {
	conn    net.Conn
	beneath gatherer // nil: each record of TLS is written by itself
	framing framing
	pool    *sync.Pool // of *batch

	mu      sync.Mutex
	work    sync.Cond // for the writer: there is something to write, or the end
	drained sync.Cond // for the session's reader: fewer control frames wait
	urgent  []byte    // goes before all else, and not as part of the framing
	control []byte    // goes before all data
	lanes   []*lane   // those with data, in the order of their turns
	closing bool      // nothing more comes: write what there is, then goodbye, and end
	goodbye []byte    // like urgent
	err     error     // the connection is gone
	since   time.Time // when the running write began; zero if there is none
	taken   int64     // bytes of data that left their streams
}

// gatherer lies beneath TLS, which writes its records one by one: what is written
// between Hold and Flush leaves with one system call.
type gatherer interface {
	Hold()
	Flush() error
}

// gathererOf returns what lies beneath a TLS connection, if it can gather.
func gathererOf(conn net.Conn) gatherer {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		g, _ := t.NetConn().(gatherer)
		return g
	}
	return nil
}

// batch is room for one write.
type batch [headRoom + batchSize]byte

// lane is the place of one stream in an outbound. It is guarded by outbound.mu.
type lane struct {
	id     uint32
	wake   sync.Cond
	data   []byte // the rest of the running write
	queued bool
	err    error // the stream writes no more
}

func newOutbound(conn net.Conn, f framing, pool *sync.Pool) *outbound {
	o := &outbound{conn: conn, beneath: gathererOf(conn), framing: f, pool: pool}
	o.work.L, o.drained.L = &o.mu, &o.mu
	return o
}

func (o *outbound) newLane(id uint32) *lane {
	l := &lane{id: id}
	l.wake.L = &o.mu
	return l
}

// write queues p as data of l and returns when all of it was taken over, or when
// the lane was closed. It does not keep p.
func (o *outbound) write(l *lane, p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l.data = p
	for len(l.data) > 0 && l.err == nil && o.err == nil && !o.closing {
		if !l.queued {
			l.queued = true
			o.lanes = append(o.lanes, l)
			o.work.Signal()
		}
		l.wake.Wait()
	}
	n := len(p) - len(l.data)
	l.data = nil
	switch {
	case n == len(p):
		return n, nil
	case l.err != nil:
		return n, l.err
	case o.err != nil:
		return n, o.err
	}
	return n, net.ErrClosed
}

// closeLane ends the writing of a stream, and a write that is under way. The
// first reason stays.
func (o *outbound) closeLane(l *lane, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
	l.wake.Signal()
}

// post queues control frames, which fill makes by appending to what it is given.
// It does not wait.
func (o *outbound) post(fill func(b []byte) []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil || o.closing {
		return
	}
	o.control = fill(o.control)
	o.work.Signal()
}

// waitRoom waits until few enough control frames are queued. Who makes us answer
// and does not read the answers is not read either.
func (o *outbound) waitRoom() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.control)+len(o.urgent) > maxControl && o.err == nil && !o.closing {
		o.drained.Wait()
	}
}

// postUrgent queues bytes that are no part of the framing.
func (o *outbound) postUrgent(fill func(b []byte) []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil && !o.closing {
		o.urgent = fill(o.urgent)
		o.work.Signal()
	}
}

// finish lets the writer end once it has written all control frames and, after
// them, goodbye.
func (o *outbound) finish(goodbye []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closing {
		o.closing, o.goodbye = true, goodbye
		o.wakeAll()
	}
}

// fail says that the connection is gone.
func (o *outbound) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
	o.wakeAll()
}

func (o *outbound) wakeAll() {
	for _, l := range o.lanes {
		l.queued = false
		l.wake.Signal()
	}
	o.lanes = nil
	o.work.Broadcast()
	o.drained.Broadcast()
}

// blockedSince returns when the write began that is under way, or zero.
func (o *outbound) blockedSince() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.since
}

// progress returns a number that grows with the data that is written.
func (o *outbound) progress() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.taken
}

// run writes until finish or fail, or until a write fails, whose error it returns.
func (o *outbound) run() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.err == nil {
		var err error
		switch {
		case len(o.urgent) > 0:
			b := o.urgent
			o.urgent = nil
			err = o.deliver(b)
			o.drained.Signal()
		case len(o.control) > 0 || len(o.lanes) > 0:
			err = o.writeBatch()
		case o.closing:
			err = o.deliver(o.goodbye)
			if err == nil {
				return nil
			}
		default:
			o.work.Wait()
		}
		if err != nil && o.err == nil {
			o.err = err
		}
	}
	o.wakeAll()
	return o.err
}

// writeBatch gathers what there is and writes it.
func (o *outbound) writeBatch() error {
	room, ok := o.pool.Get().(*batch)
	if !ok {
		room = new(batch)
	}
	defer o.pool.Put(room)
	b := o.gather(room[:headRoom])
	if len(b) == headRoom { // every lane had been closed
		return nil
	}
	return o.deliver(o.framing.seal(b))
}

// deliver writes b. It holds o.mu, but not meanwhile.
func (o *outbound) deliver(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	o.since = time.Now()
	o.mu.Unlock()
	err := o.send(b)
	o.mu.Lock()
	o.since = time.Time{}
	return err
}

// send writes b, with one system call where something beneath can gather records.
func (o *outbound) send(b []byte) error {
	if o.beneath == nil || len(b) <= recordSize {
		_, err := o.conn.Write(b)
		return err
	}
	o.beneath.Hold()
	_, err := o.conn.Write(b)
	if flushed := o.beneath.Flush(); err == nil {
		err = flushed
	}
	return err
}

// gather appends to b, within its capacity, the control frames and then one piece
// of each lane in turn.
func (o *outbound) gather(b []byte) []byte {
	n := min(len(o.control), cap(b)-len(b))
	b = append(b, o.control[:n]...)
	o.control = o.control[:copy(o.control, o.control[n:])]
	o.drained.Signal()
	if len(o.control) > 0 {
		return b
	}
	if cap(o.control) > maxControl/4 {
		o.control = nil
	}
	for len(o.lanes) > 0 {
		l := o.lanes[0]
		if l.err != nil || len(l.data) == 0 {
			o.nextTurn(l, false)
			continue
		}
		room := cap(b) - len(b)
		if len(o.lanes) > 1 {
			room = min(room, shareSize)
		}
		n := min(len(l.data), o.framing.fit(room))
		if n < len(l.data) && n < batchSize/16 { // not worth a frame: at the head of the next batch
			return b
		}
		b = o.framing.appendData(b, l.id, l.data[:n])
		o.taken += int64(n)
		l.data = l.data[n:]
		o.nextTurn(l, len(l.data) > 0)
	}
	return b
}

// nextTurn takes the first lane out of the queue, and puts it at its end if it has
// more to write.
func (o *outbound) nextTurn(l *lane, more bool) {
	o.lanes = o.lanes[:copy(o.lanes, o.lanes[1:])]
	if more {
		o.lanes = append(o.lanes, l)
		return
	}
	l.queued = false
	l.wake.Signal()
}
