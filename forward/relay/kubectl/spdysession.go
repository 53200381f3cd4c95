package kubectl

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

// spdySession is SPDY/3.1 as far as port-forward needs it: streams that the client
// opens, in pairs.
type spdySession struct {
	*carrier
	tunnel bool // inside a WebSocket
	r      *bufio.Reader
	blocks *blocks

	replies replies // guarded by out.mu, as it follows the order of the wire
	pingID  uint32  // of the watcher

	frame []byte // one control frame, reused

	mu         sync.Mutex
	pairs      map[string]*pair
	streams    map[uint32]half
	refused    map[uint16]bool // ports whose last connection was refused
	last       uint32          // the highest stream the client has opened
	leaving    bool            // no stream is opened any more
	clientLeft bool            // and it was the client who said so
}

// half is one stream of a pair.
type half struct {
	*pair
	data bool
}

// serveSPDY serves a client whose upgrade was answered, and returns why it ended. r
// is what comes from it, and conn is taken over.
func (h *Handler) serveSPDY(ctx context.Context, conn net.Conn, r io.Reader, user Session) error {
	s := &spdySession{
		carrier: h.newCarrier(ctx, conn, user, DoorSPDY, spdyFraming{}),
	}
	s.r = bufio.NewReaderSize(counted{r, &s.received}, readSize)
	return s.serve()
}

// serveTunnel is serveSPDY for SPDY inside a WebSocket.
func (h *Handler) serveTunnel(ctx context.Context, conn net.Conn, r io.Reader, user Session) error {
	s := &spdySession{
		carrier: h.newCarrier(ctx, conn, user, DoorWebSocket, tunnelFraming{}),
		tunnel:  true,
	}
	ws := &wsReader{r: bufio.NewReaderSize(counted{r, &s.received}, readSize), reply: s.wsReply}
	s.r = bufio.NewReaderSize(tunnelReader{ws}, readSize/4)
	return s.serve()
}

func (s *spdySession) serve() error {
	var err error
	if s.blocks, err = newBlocks(); err != nil {
		return err
	}
	s.pairs, s.streams, s.refused = make(map[string]*pair), make(map[uint32]half), make(map[uint16]bool)
	s.ping, s.goodbye = s.sendPing, s.sendGoodbye
	return s.run(s.read, s.verdict)
}

// wsReply answers a control frame of the WebSocket.
func (s *spdySession) wsReply(op byte, payload []byte) {
	s.out.postUrgent(func(b []byte) []byte {
		return append(appendWSHead(b, op, len(payload)), payload...)
	})
	s.waitRoom()
}

// read reads frames until the client or its connection ends.
func (s *spdySession) read() error {
	for {
		b, err := s.r.Peek(spdyHead)
		if err != nil {
			if len(b) > 0 {
				err = noEOF(err)
			}
			return err
		}
		h, err := parseHead(b)
		if err != nil {
			return err
		}
		if h.control {
			err = s.readControl(h)
		} else {
			err = s.readData(h)
		}
		if err != nil {
			return err
		}
		s.spoken.Store(true)
	}
}

func (s *spdySession) readData(h head) error {
	if _, err := s.r.Discard(spdyHead); err != nil {
		return err
	}
	conn, err := s.dataConn(h.stream)
	if err != nil {
		return err
	}
	if err := s.fill(s.r, conn, h.length); err != nil {
		return noEOF(err)
	}
	if conn != nil && h.flags&flagFin != 0 {
		conn.peerFinished()
	}
	return nil
}

// dataConn returns who gets the data of a stream, or nil: it is not open any more,
// which its client may not know yet, or it is an error stream.
func (s *spdySession) dataConn(id uint32) (*streamConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id > s.last {
		return nil, protocolError("data of stream %d, which was never opened", id)
	}
	if half := s.streams[id]; half.data {
		return half.conn, nil
	}
	return nil, nil
}

func (s *spdySession) readControl(h head) error {
	n := spdyHead + h.length
	if cap(s.frame) < n {
		s.frame = make([]byte, n, max(n, 512))
	}
	s.frame = s.frame[:n]
	if _, err := io.ReadFull(s.r, s.frame); err != nil {
		return noEOF(err)
	}
	s.waitRoom()
	body := s.frame[spdyHead:]
	switch h.kind {
	case typeSynStream:
		return s.synStream(h, s.frame)
	case typeHeaders:
		return s.blocks.headers(s.frame)
	case typeSynReply:
		return protocolError("SYN_REPLY to a stream that was not opened here")
	case typeRstStream:
		if h.length != 8 {
			return protocolError("RST_STREAM of %d bytes", h.length)
		}
		s.rstStream(binary.BigEndian.Uint32(body) & maxStream)
	case typePing:
		if h.length != 4 {
			return protocolError("PING of %d bytes", h.length)
		}
		if id := binary.BigEndian.Uint32(body); id%2 == 1 { // an even one is ours, and this its answer
			s.out.post(func(b []byte) []byte { return appendPing(b, id) })
		}
	case typeGoAway:
		return s.goAway()
	}
	// SETTINGS and WINDOW_UPDATE mean nothing here: no peer of this protocol honours
	// windows. What is unknown is to be ignored.
	return nil
}

// goAway notes that the client opens no further stream. What runs may end.
func (s *spdySession) goAway() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving, s.clientLeft = true, true
	if len(s.pairs) == 0 {
		return io.EOF
	}
	return nil
}

// hangUp ends a session whose client opens nothing more and has nothing left.
func (s *spdySession) hangUp() {
	s.finish(closeNormal)
	s.linger()
}

// sendPing is called by the watcher alone.
func (s *spdySession) sendPing() {
	s.pingID += 2
	if s.pingID > maxStream {
		s.pingID = 2
	}
	s.out.post(func(b []byte) []byte { return appendPing(b, s.pingID) })
}

// sendGoodbye ends every stream, with the reason on the error streams: this is what
// makes kubectl say so and exit.
func (s *spdySession) sendGoodbye(reason string) {
	s.mu.Lock()
	s.leaving = true
	for _, p := range s.pairs {
		p.endLocked(reason)
	}
	last := s.last
	s.mu.Unlock()
	if s.spoken.Load() {
		s.out.post(func(b []byte) []byte { return appendGoAway(b, last, goAwayOK) })
	}
	s.finish(closeNormal)
}

func (s *spdySession) finish(code uint16) {
	var last []byte
	if s.tunnel {
		last = wsClose(code, "")
	}
	s.out.finish(last)
}

// verdict answers what ended the reading.
func (s *spdySession) verdict(err error) bool {
	var (
		wrong   *spdyError
		wrongWS *wsError
		closed  *wsCloseError
	)
	switch {
	case errors.As(err, &wrong):
		s.cfg.Log.Info("client broke the protocol", "door", s.door, "error", err)
		s.mu.Lock()
		last := s.last
		s.mu.Unlock()
		s.out.post(func(b []byte) []byte { return appendGoAway(b, last, goAwayProtocolError) })
		s.finish(closeProtocol)
	case errors.As(err, &wrongWS):
		s.cfg.Log.Info("client broke the protocol", "door", s.door, "error", err)
		s.finish(wrongWS.code)
	case errors.Is(err, io.EOF), errors.As(err, &closed):
		s.out.finish(nil) // a close frame has been answered
	default:
		return false
	}
	return true
}
