package tunnel

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// A peer may ask whether we live this often, and a burst of this many times;
	// each question costs a goroutine in yamux.
	pingRate  = 20 // a second
	pingBurst = 100

	// readSize is how much is read at once while nothing big comes in.
	readSize = 4 << 10
	// directRead is what must be missing of a frame for the rest to be read to
	// where it stays.
	directRead = 4 << 10
	// pushLimit is the size up to which a frame may be pushed on by the receiver:
	// what is more is no question and no answer but bulk, and better carried by a
	// goroutine, and so a processor, of its own.
	pushLimit = 4 << 10
)

var (
	errPingFlood = errors.New("peer floods the session with pings")
	errNotMux    = errors.New("peer does not speak yamux")
	errGoAway    = errors.New("peer ended the session for an error")
	errMuxFault  = errors.New("peer broke the rules of yamux")
	errOverrun   = fmt.Errorf("%w: it sent more than it has credit for", errMuxFault)
)

// hearer is told of the frames that come in, one after the other, before yamux
// sees them. Nothing in it may wait for a peer.
type hearer interface {
	// opened hears that the peer opens a stream. It is false if the stream is
	// refused; yamux then never hears of it.
	opened(id uint32) (bool, error)
	// find returns a stream, nil if it is not known (any more).
	find(id uint32) *Stream
	// pong hears that a probe of the path has come back.
	pong()
	// broken hears, once, why nothing more comes in, and returns what yamux is
	// told.
	broken(err error) error
}

// inbound is what yamux reads from. The frames that open, acknowledge and end
// streams go on to yamux; data goes to the streams themselves and never gets
// there. So does a frame the peer never sent (a reset): inject.
type inbound struct {
	r     io.Reader
	h     hearer
	mem   *Memory
	start time.Time
	last  atomic.Int64 // nanoseconds after start at which the last byte came

	mu      sync.Mutex
	pending []byte // whole frames for the local session

	// Only the reader touches these.
	goodbye bool   // the peer said that it ends the session
	forMux  []byte // whole frames yamux has not read yet
	bulk    bool   // so much came in last that a whole record may follow
	buf     []byte
	hdr     [muxHeader]byte
	have    int     // bytes of hdr
	body    uint32  // bytes of the current frame's body still to come
	to      *Stream // whose it is; nil: nobody's
	ends    bool    // the stream ends with the frame
	asleep  *Stream // it got something, and its reader has not been told
	err     error

	pingBudget float64
	pingSeen   time.Duration
}

func newInbound(r io.Reader, h hearer, mem *Memory) *inbound {
	return &inbound{r: r, h: h, mem: mem, start: time.Now(), pingBudget: pingBurst}
}

// silence returns how long ago the last byte came in.
func (in *inbound) silence() time.Duration {
	return time.Since(in.start) - time.Duration(in.last.Load())
}

// inject gives the local session a whole frame, with the next one that comes in.
func (in *inbound) inject(frame []byte) {
	in.mu.Lock()
	in.pending = append(in.pending, frame...)
	in.mu.Unlock()
}

// waiting tells whether an injected frame waits for the next one to come in.
func (in *inbound) waiting() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.pending) > 0
}

// Read is where yamux waits. It returns when there is a frame for it.
func (in *inbound) Read(p []byte) (int, error) {
	for {
		in.mu.Lock()
		in.forMux = append(in.forMux, in.pending...)
		in.pending = in.pending[:0]
		in.mu.Unlock()
		if len(in.forMux) > 0 {
			n := copy(p, in.forMux)
			in.forMux = in.forMux[:copy(in.forMux, in.forMux[n:])]
			return n, nil
		}
		if in.err != nil {
			return 0, in.err
		}
		if err := in.receive(); err != nil {
			in.tell()
			in.err = in.h.broken(err)
		}
		in.mem.relieve()
	}
}

// receive reads once from the connection.
func (in *inbound) receive() error {
	if in.to != nil && in.body >= directRead {
		return in.direct()
	}
	if in.bulk {
		return in.record()
	}
	if in.buf == nil {
		in.buf = make([]byte, readSize)
	}
	n, err := in.r.Read(in.buf)
	if n == 0 {
		return err
	}
	in.last.Store(int64(time.Since(in.start)))
	in.bulk = n == len(in.buf)
	return in.parse(in.buf[:n]) // an error comes again with the next read
}

// direct reads what is missing of a frame to where it stays.
func (in *inbound) direct() error {
	c := in.mem.lend(bigChunk)
	n, err := in.r.Read(c.buf[c.w:min(len(c.buf), c.w+int(min(in.body, bigChunk)))])
	if n == 0 {
		in.mem.takeBack(c)
		return err
	}
	in.last.Store(int64(time.Since(in.start)))
	c.w += n
	in.hand(c)
	return nil
}

// record reads a record into a chunk, and leaves it there if it is what our peers
// make of bulk: one whole frame.
func (in *inbound) record() error {
	c := in.mem.lend(bigChunk)
	n, err := in.r.Read(c.buf)
	in.bulk = n >= readSize
	if n == 0 {
		in.mem.takeBack(c)
		return err
	}
	in.last.Store(int64(time.Since(in.start)))
	b := c.buf[:n]
	err = nil // it comes again with the next read
	if in.have == 0 && in.body == 0 && n > bigChunk/2 {
		copy(in.hdr[:], b)
		b = b[muxHeader:]
		if err = in.header(); err == nil && in.to != nil && int(in.body) == len(b) {
			c.w = n
			in.hand(c)
			return nil
		}
	}
	if err == nil {
		err = in.parse(b)
	}
	in.mem.takeBack(c)
	return err
}

// hand gives a chunk to the stream whose it is.
func (in *inbound) hand(c *chunk) {
	n := c.w - c.r
	if !in.to.deliverChunk(c) {
		in.mem.takeBack(c)
	}
	in.got(n, true)
}

// parse follows the frames in b.
func (in *inbound) parse(b []byte) error {
	for len(b) > 0 {
		if in.body > 0 {
			n := int(min(in.body, uint32(len(b))))
			in.got(n, in.to != nil && in.to.deliver(b[:n], n == int(in.body)))
			b = b[n:]
			continue
		}
		n := copy(in.hdr[in.have:], b)
		in.have += n
		b = b[n:]
		if in.have < muxHeader {
			return nil
		}
		in.have = 0
		if err := in.header(); err != nil {
			return err
		}
	}
	return nil
}

// got notes that n bytes of a body were delivered, and whether to a reader that
// has to be told.
func (in *inbound) got(n int, wake bool) {
	if wake {
		if in.asleep != in.to {
			in.tell()
		}
		in.asleep = in.to
	}
	in.body -= uint32(n)
	if in.body > 0 {
		return
	}
	if in.ends {
		in.ends = false
		in.to.peerFinished()
	}
	in.to = nil
}

// tell wakes the reader of what came in last. That is left for the moment at which
// something comes for another, or nothing more is there to be read: recordConn calls it
// then. So a reader finds many frames of bulk at once.
func (in *inbound) tell() {
	if in.asleep != nil {
		notify(in.asleep.in.ready)
		in.asleep = nil
	}
}

// header judges a frame by its header. What would make yamux give up is found
// here first.
func (in *inbound) header() error {
	h := parseHeader(in.hdr[:])
	switch {
	case in.hdr[0] != muxVersion || h.typ > typeGoAway:
		return errNotMux
	case h.typ == typeGoAway && h.value != 0:
		return errGoAway
	case h.typ == typeGoAway:
		in.goodbye = true
	case h.typ == typePing && h.flags&flagSYN != 0 && !in.mayPing():
		return errPingFlood
	case h.typ == typePing && h.flags&flagACK != 0 && h.value == probeMark:
		in.h.pong()
		return nil
	}
	if h.typ > typeWindow {
		in.forMux = append(in.forMux, in.hdr[:]...)
		return nil
	}
	return in.ofStream(h)
}

// ofStream does what a frame of a stream says.
func (in *inbound) ofStream(h muxHead) error {
	if h.typ == typeData {
		in.body = h.value
	}
	if h.flags&flagSYN != 0 {
		if taken, err := in.h.opened(h.id); err != nil || !taken {
			return err
		}
	}
	if h.flags != 0 {
		in.forMux = appendHeader(in.forMux, typeWindow, h.flags, h.id, 0)
	} else if h.value == 0 {
		return nil
	}
	st := in.h.find(h.id)
	ends := h.flags&flagFIN != 0
	switch {
	case st == nil:
		return nil // it was reset or closed here
	case h.flags&flagRST != 0:
		st.peerReset()
		return nil
	case h.typ == typeWindow:
		st.addCredit(h.value)
	case !st.admit(h.value):
		return errOverrun
	}
	if ends && !st.mayFinish() {
		return errMuxFault
	}
	if in.body > 0 {
		in.to, in.ends = st, ends
	} else if ends {
		st.peerFinished()
	}
	return nil
}

func (in *inbound) mayPing() bool {
	now := time.Since(in.start)
	in.pingBudget = min(pingBurst, in.pingBudget+(now-in.pingSeen).Seconds()*pingRate)
	in.pingSeen = now
	in.pingBudget--
	return in.pingBudget >= 0
}
