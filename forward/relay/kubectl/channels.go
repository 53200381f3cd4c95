package kubectl

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// channels is a session of the native WebSocket protocols: port i of the query has
// channel 2i for its data and 2i+1 for text about errors, and one connection, which
// is made at once. Every message begins with its channel. The first one of a channel
// is the port, little endian.
type channels struct {
	*carrier
	framing channelFraming
	ws      *wsReader
	ports   []*channelPort
	done    chan struct{} // closed when all ports are
}

// channelPort is one of the ports.
type channelPort struct {
	port uint16
	conn *streamConn
}

// serveChannels serves a client whose upgrade was answered, and returns why it ended.
func (h *Handler) serveChannels(
	ctx context.Context, conn net.Conn, r io.Reader, user Session, ports []uint16, coded bool,
) error {
	f := channelFraming{coded}
	s := &channels{carrier: h.newCarrier(ctx, conn, user, DoorV4, f), framing: f, done: make(chan struct{})}
	s.ws = &wsReader{r: bufio.NewReaderSize(counted{r, &s.received}, readSize), reply: s.wsReply}
	s.ping = func() { s.out.post(func(b []byte) []byte { return appendWSHead(b, opPing, 0) }) }
	s.goodbye = s.sendGoodbye
	s.spoken.Store(true) // here the server speaks first
	for i, port := range ports {
		p := &channelPort{port: port, conn: s.add(uint32(2 * i))}
		// A channel has no end of its own: the port is done when its pod has finished.
		p.conn.sayFinished = p.conn.peerFinished
		p.conn.sayReset = func(error) {}
		s.ports = append(s.ports, p)
		s.out.post(func(b []byte) []byte {
			for id := range uint32(2) {
				b = f.appendData(b, uint32(2*i)+id, binary.LittleEndian.AppendUint16(nil, port))
			}
			return b
		})
	}
	return s.run(s.read, s.verdict)
}

// start dials all ports, and says goodbye when the last one is done.
func (s *channels) start() {
	s.open.Store(int32(len(s.ports)))
	for _, p := range s.ports {
		s.tasks.Go(func() {
			s.serve(p)
			if s.open.Add(-1) == 0 {
				close(s.done)
				s.out.finish(wsClose(closeNormal, ""))
				s.linger()
			}
		})
	}
}

func (s *channels) serve(p *channelPort) {
	link, err := s.dial(s.ctx, p.port)
	if err == nil {
		err = link.Join(s.ctx, p.conn)
	}
	_ = p.conn.Close()
	if err != nil {
		s.say(p, strictText(s.user, p.port, err))
	}
}

// say sends text on the error channel of a port.
func (s *channels) say(p *channelPort, text string) {
	s.out.post(func(b []byte) []byte { return s.framing.appendData(b, p.conn.lane.id+1, []byte(text)) })
}

func (s *channels) wsReply(op byte, payload []byte) {
	s.out.post(func(b []byte) []byte { return append(appendWSHead(b, op, len(payload)), payload...) })
	s.waitRoom()
}

// read reads messages until the client closes.
func (s *channels) read() error {
	s.start()
	for {
		if _, err := s.ws.next(); err != nil {
			return s.left(err)
		}
		if err := s.message(); err != nil {
			return s.left(err)
		}
	}
}

// left passes on how the client left. A close frame with a good code is all that it
// has to say that it has finished: what it sent before still goes to the pods, with
// an end. No answer can come back.
func (s *channels) left(err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	s.out.finish(nil)
	for _, p := range s.ports {
		p.conn.peerFinished()
	}
	timeout := time.NewTimer(s.cfg.StallTimeout)
	defer timeout.Stop()
	select {
	case <-s.done:
	case <-timeout.C:
	case <-s.ctx.Done():
	}
	return err
}

// message reads one message into its channel.
func (s *channels) message() error {
	var channel [1]byte
	if n, _ := io.ReadFull(s.ws, channel[:]); n == 0 { // empty, or the end
		return s.ws.end
	}
	id := int(channel[0])
	if s.framing.coded {
		id -= '0'
	}
	var conn *streamConn
	if id >= 0 && id%2 == 0 && id/2 < len(s.ports) {
		conn = s.ports[id/2].conn
	}
	var r io.Reader = s.ws
	if s.framing.coded {
		r = base64.NewDecoder(base64.StdEncoding, s.ws)
	}
	for conn != nil {
		room, open := s.room(conn)
		if !open {
			break
		}
		n, err := r.Read(room)
		conn.filled(n)
		if err != nil {
			return s.messageEnd(err)
		}
	}
	_, err := io.Copy(io.Discard, struct{ io.Reader }{s.ws})
	return s.messageEnd(err)
}

// messageEnd tells the end of a message from what is wrong with it.
func (s *channels) messageEnd(err error) error {
	switch {
	case s.ws.end != nil:
		return s.ws.end
	case err == nil || err == io.EOF:
		return nil
	}
	return s.ws.fail(&wsError{closeInvalidData, "message is not base64"})
}

func (s *channels) sendGoodbye(reason string) {
	for _, p := range s.ports {
		s.say(p, reason)
	}
	s.out.finish(wsClose(closeGoingAway, reason))
}

// verdict answers what ended the reading.
func (s *channels) verdict(err error) bool {
	var (
		wrong  *wsError
		closed *wsCloseError
	)
	switch {
	case errors.As(err, &wrong):
		s.cfg.Log.Info("client broke the protocol", "door", s.door, "error", err)
		s.out.finish(wsClose(wrong.code, wrong.text))
	case errors.Is(err, io.EOF), errors.As(err, &closed):
		s.out.finish(nil) // the close frame has been answered
	default:
		return false
	}
	return true
}

// channelFraming puts each piece of data into a message of its own, behind a byte
// with its channel.
type channelFraming struct{ coded bool }

func (f channelFraming) fit(room int) int {
	room -= maxWSHead + 1
	if f.coded {
		return room / 4 * 3
	}
	return room
}

func (f channelFraming) appendData(b []byte, id uint32, p []byte) []byte {
	if !f.coded {
		b = appendWSHead(b, opBinary, 1+len(p))
		return append(append(b, byte(id)), p...)
	}
	b = appendWSHead(b, opText, 1+base64.StdEncoding.EncodedLen(len(p)))
	return base64.StdEncoding.AppendEncode(append(b, '0'+byte(id)), p)
}

func (channelFraming) seal(b []byte) []byte { return b[headRoom:] }
