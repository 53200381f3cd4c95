package kubectl

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// lateAnswer is when a client may have given up on a stream: kubectl waits for 30 s.
// Its library hangs for ever if a reset comes for a stream that was never answered
// and that nobody waits for, so from here on an answer goes before the reset.
const lateAnswer = 28 * time.Second

var (
	errClientLeft = &stream.Error{Code: stream.Canceled, Text: "the client gave the connection up"}
	errClientDone = &stream.Error{Code: stream.Canceled, Text: "the client left after the pod had finished"}
	errNoPartner  = &stream.Error{Code: stream.Timeout, Text: "the client opened only one of the two streams of a connection"}
)

// pair is one forwarded connection: a data stream and an error stream, in whichever
// order they come.
type pair struct {
	s       *spdySession
	request string
	created time.Time
	ctx     context.Context // until it is joined
	cancel  context.CancelCauseFunc
	full    chan struct{} // closed when both streams are there

	// Guarded by s.mu.
	errID, dataID     uint32
	errPort, dataPort uint16
	errBorn, dataBorn time.Time
	conn              *streamConn
	errAnswered       bool // SYN_REPLY has gone out on the error stream
	errEnded          bool // nothing more goes out on the error stream
	dataAnswered      bool // SYN_REPLY has gone out on the data stream
	dataEnded         bool // one side has reset the data stream
}

// offer is a stream that the client wants to open.
type offer struct {
	id      uint32
	data    bool
	port    uint16
	request string
	fin     bool
}

// readOffer makes sense of the headers of a SYN_STREAM.
func readOffer(id uint32, h http.Header, flags byte) (offer, error) {
	o := offer{id: id, fin: flags&flagFin != 0}
	port, err := strconv.ParseUint(h.Get("port"), 10, 16)
	if err != nil || port == 0 {
		return o, fmt.Errorf("port %q is not a number from 1 to 65535", h.Get("port"))
	}
	o.port = uint16(port)
	switch kind := h.Get("streamtype"); kind {
	case "error":
	case "data":
		o.data = true
	default:
		return o, fmt.Errorf("stream type %q is neither error nor data", kind)
	}
	if flags&flagUnidirectional != 0 {
		return o, errors.New("stream is unidirectional")
	}
	o.request = h.Get("requestid")
	if o.request == "" { // clients before 2015: the error stream comes first, the data stream next
		n := id
		if o.data {
			n -= 2
		}
		o.request = strconv.FormatUint(uint64(n), 10)
	}
	return o, nil
}

// synStream takes a new stream, or refuses it and goes on.
func (s *spdySession) synStream(h head, frame []byte) error {
	id, headers, err := s.blocks.synStream(frame)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if id&controlBit != 0 || id%2 == 0 || id <= s.last {
		return protocolError("stream %d opened after stream %d", id, s.last)
	}
	s.last = id
	o, err := readOffer(id, headers, h.flags)
	switch {
	case err != nil:
		s.cfg.Log.Debug("stream refused", "door", s.door, "stream", id, "error", err)
		s.reset(id, rstCancel)
	case s.leaving:
		s.reset(id, rstRefused)
	default:
		s.place(o)
	}
	return nil
}

// reset refuses or ends a stream.
func (s *spdySession) reset(id, status uint32) {
	s.out.post(func(b []byte) []byte { return appendRst(b, id, status) })
}

// place puts a stream into its pair.
func (s *spdySession) place(o offer) {
	p := s.pairs[o.request]
	if p == nil {
		if len(s.pairs) >= s.cfg.MaxConnections {
			s.reset(o.id, rstRefused)
			return
		}
		p = s.newPair(o.request)
	}
	if o.data && p.dataID != 0 || !o.data && p.errID != 0 {
		p.duplicate(o)
		return
	}
	s.streams[o.id] = half{p, o.data}
	if o.data {
		p.dataID, p.dataPort, p.dataBorn = o.id, o.port, time.Now()
		p.conn = s.add(o.id)
		p.conn.sayFinished, p.conn.sayReset = p.podFinished, p.podReset
		if o.fin {
			p.conn.peerFinished()
		}
		if s.cfg.Strict {
			p.answerDataLocked()
		}
	} else {
		p.errID, p.errPort, p.errBorn = o.id, o.port, time.Now()
		// After an answer, a refusal is told by a reset of the data stream, of which
		// kubectl keeps a goroutine for ever. A program that tries and tries would fill
		// its memory. So where the last one was refused, the answer waits for the pod.
		if !s.refused[o.port] || s.cfg.Strict {
			p.answerErrorLocked()
		}
	}
	if p.dataID != 0 && p.errID != 0 {
		close(p.full)
	} else {
		s.tasks.Go(p.run) // the first of the two
	}
}

func (s *spdySession) newPair(request string) *pair {
	p := &pair{s: s, request: request, created: time.Now(), full: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancelCause(s.ctx)
	s.pairs[request] = p
	s.open.Add(1)
	return p
}

// duplicate refuses the second stream of one type.
func (p *pair) duplicate(o offer) {
	if !p.s.cfg.Strict {
		p.s.reset(o.id, rstInUse)
		return
	}
	kind := "error"
	if o.data {
		kind = "data"
	}
	p.s.out.post(func(b []byte) []byte { return p.s.replies.append(b, o.id) })
	p.sayLocked(fmt.Sprintf("error processing stream for request %s: %s stream already assigned", p.request, kind))
}

// rstStream is the client giving up a stream.
func (s *spdySession) rstStream(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	half, ok := s.streams[id]
	if !ok {
		return // we ended it, and the client did not know yet
	}
	p := half.pair
	if !half.data {
		p.errEnded = true
		if p.dataID == 0 {
			p.cancel(errClientLeft)
		}
		return
	}
	p.dataEnded = true
	p.cancel(errClientLeft)
	p.conn.leave(errClientLeft, errClientDone)
	p.endErrorLocked() // kubectl waits for it before it closes its local socket
}

// forget removes a pair that has ended.
func (s *spdySession) forget(p *pair) {
	p.cancel(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pairs, p.request)
	delete(s.streams, p.errID)
	delete(s.streams, p.dataID)
	s.open.Add(-1)
	if p.conn != nil {
		s.remove(p.conn)
	}
	if s.clientLeft && len(s.pairs) == 0 {
		s.hangUp()
	}
}
