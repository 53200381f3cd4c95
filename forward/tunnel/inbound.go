package tunnel

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// A peer may ask whether we live this often, and a burst of this many times;
// each question costs a goroutine in yamux.
const (
	pingRate  = 20 // a second
	pingBurst = 100
)

var (
	errPingFlood = errors.New("peer floods the session with pings")
	errNotMux    = errors.New("peer does not speak yamux")
	errGoAway    = errors.New("peer ended the session for an error")
)

// inbound is what yamux reads from. It follows the frames as they go by, so
// that it can give the local session a frame the peer never sent (a reset),
// and it holds an error back until every reader has left the session.
type inbound struct {
	r       io.Reader
	onEnd   func(error) error // called once by the reader; its error is returned
	onReset func(id uint32)   // the peer reset a stream; called by the reader
	start   time.Time
	last    atomic.Int64 // nanoseconds after start at which the last byte came

	mu      sync.Mutex
	pending []byte // whole frames for the local session

	// Only the reader touches these.
	goodbye bool   // the peer said that it ends the session
	part    []byte // what is left of a pending frame
	hdr     [muxHeader]byte
	have    int    // bytes of hdr
	body    uint32 // bytes of the current frame's body still to come
	err     error

	pingBudget float64
	pingSeen   time.Duration
}

func newInbound(r io.Reader, onEnd func(error) error, onReset func(id uint32)) *inbound {
	return &inbound{r: r, onEnd: onEnd, onReset: onReset, start: time.Now(), pingBudget: pingBurst}
}

// silence returns how long ago the last byte came in.
func (in *inbound) silence() time.Duration {
	return time.Since(in.start) - time.Duration(in.last.Load())
}

// inject gives the local session a whole frame before the next one that comes
// in.
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

func (in *inbound) Read(p []byte) (int, error) {
	if in.err != nil {
		return 0, in.err
	}
	p, injected := in.next(p)
	if injected > 0 {
		return injected, nil
	}
	n, err := in.r.Read(p)
	if n > 0 {
		in.last.Store(int64(time.Since(in.start)))
		if ferr := in.follow(p[:n]); ferr != nil {
			n, err = 0, ferr
		}
	}
	if err != nil && n == 0 {
		in.err = in.onEnd(err)
		return 0, in.err
	}
	return n, nil // an error comes again with the next read
}

// next fills p from an injected frame, or returns how much of p may be read
// from the connection: while a frame waits to be injected, not beyond the end
// of the current one.
func (in *inbound) next(p []byte) (room []byte, injected int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.part) == 0 && len(in.pending) > 0 && in.have == 0 && in.body == 0 {
		in.part, in.pending = in.pending, nil
	}
	if len(in.part) > 0 {
		n := copy(p, in.part)
		in.part = in.part[n:]
		return nil, n
	}
	if len(in.pending) > 0 {
		left := muxHeader - in.have
		if in.body > 0 {
			left = int(min(in.body, 1<<20))
		}
		p = p[:min(len(p), left)]
	}
	return p, 0
}

// follow keeps track of where frames begin and end. What would make yamux give
// up is found here first, so that hold comes before its end.
func (in *inbound) follow(p []byte) error {
	for len(p) > 0 {
		if in.body > 0 {
			n := int(min(in.body, uint32(len(p))))
			in.body -= uint32(n)
			p = p[n:]
			continue
		}
		n := copy(in.hdr[in.have:], p)
		in.have += n
		p = p[n:]
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

func (in *inbound) header() error {
	typ, flags := in.hdr[1], binary.BigEndian.Uint16(in.hdr[2:])
	id, value := binary.BigEndian.Uint32(in.hdr[4:]), binary.BigEndian.Uint32(in.hdr[8:])
	switch {
	case in.hdr[0] != muxVersion || typ > typeGoAway:
		return errNotMux
	case typ == typeGoAway && value != 0:
		return errGoAway
	case typ == typeGoAway:
		in.goodbye = true
	case typ == typeData:
		in.body = value
	case typ == typePing && flags&flagSYN != 0 && !in.mayPing():
		return errPingFlood
	}
	if typ <= typeWindow && flags&flagRST != 0 {
		in.onReset(id)
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
