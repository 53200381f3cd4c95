package kubectl

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/moby/spdystream/spdy"

	"github.com/culvert-k8s/culvert/forward"
)

// rawClient is the client's end of SPDY without the faults of kubectl: it tells an
// abort from an end, and does whatever a test wants.
type rawClient struct {
	*carrier
	t    testing.TB
	r    *bufio.Reader
	done chan struct{}

	mu      sync.Mutex
	framer  *spdy.Framer // for SYN_STREAM
	framed  bytes.Buffer
	next    uint32
	streams map[uint32]*rawStream
	pongs   chan uint32
	goAway  chan uint32
	quiet   bool // answers no ping
}

// rawStream is one stream that the client has opened.
type rawStream struct {
	*streamConn
	id      uint32
	answers chan string // "reply" or "reset", in order
}

var errResetByServer = errors.New("reset by the server")

// newRawClient speaks on conn. It is closed by the test's end.
func newRawClient(t testing.TB, conn net.Conn) *rawClient {
	const never = 1000 * time.Hour
	h := New(Config{BlockedTimeout: never, SilenceTimeout: never, StallTimeout: never, FirstFrameTimeout: never})
	c := &rawClient{
		t: t, next: 1, done: make(chan struct{}),
		carrier: h.newCarrier(context.Background(), conn, newPod(nil), "test", spdyFraming{}),
		streams: make(map[uint32]*rawStream),
		pongs:   make(chan uint32, 100), goAway: make(chan uint32, 1),
	}
	c.ping, c.goodbye = func() {}, func(string) {}
	c.r = bufio.NewReaderSize(counted{conn, &c.received}, readSize)
	framer, err := spdy.NewFramer(&c.framed, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.framer = framer
	go func() {
		defer close(c.done)
		_ = c.run(c.read, func(error) bool { return false })
	}()
	return c
}

func (c *rawClient) close() {
	_ = c.conn.Close()
	<-c.done
}

func (c *rawClient) read() error {
	for {
		b, err := c.r.Peek(spdyHead)
		if err != nil {
			return err
		}
		h, err := parseHead(b)
		if err != nil {
			return err
		}
		_, _ = c.r.Discard(spdyHead)
		if !h.control {
			s := c.stream(h.stream)
			if err := c.fill(c.r, s.streamConn, h.length); err != nil {
				return err
			}
			if h.flags&flagFin != 0 {
				s.peerFinished()
			}
			continue
		}
		body := make([]byte, h.length)
		if _, err := io.ReadFull(c.r, body); err != nil {
			return err
		}
		c.control(h, body)
	}
}

func (c *rawClient) control(h head, body []byte) {
	id := binary.BigEndian.Uint32(body)
	switch h.kind {
	case typeSynReply:
		c.stream(id).answers <- "reply"
	case typeRstStream:
		s := c.stream(id)
		s.answers <- "reset"
		s.abort(forward.ResetBy(errResetByServer))
	case typePing:
		if id%2 == 0 && !c.quiet {
			c.out.post(func(b []byte) []byte { return appendPing(b, id) })
		}
		select {
		case c.pongs <- id:
		default:
		}
	case typeGoAway:
		c.goAway <- id
	}
}

func (c *rawClient) stream(id uint32) *rawStream {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	if s == nil {
		panic(fmt.Sprintf("frame for stream %d", id))
	}
	return s
}

// open opens a stream with these headers, given in pairs.
func (c *rawClient) openStream(flags spdy.ControlFlags, headers ...string) *rawStream {
	h := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.next
	c.next += 2
	s := &rawStream{streamConn: c.add(id), id: id, answers: make(chan string, 10)}
	s.sayFinished = func() { c.out.post(func(b []byte) []byte { return appendFin(b, id) }) }
	s.sayReset = func(error) { c.out.post(func(b []byte) []byte { return appendRst(b, id, rstCancel) }) }
	c.streams[id] = s
	c.sendSyn(&spdy.SynStreamFrame{
		StreamId: spdy.StreamId(id), Headers: h, CFHeader: spdy.ControlFrameHeader{Flags: flags},
	})
	return s
}

func (c *rawClient) sendSyn(f spdy.Frame) {
	c.framed.Reset()
	if err := c.framer.WriteFrame(f); err != nil {
		panic(err)
	}
	c.send(c.framed.Bytes())
}

// send sends bytes as they are.
func (c *rawClient) send(p []byte) {
	c.out.post(func(b []byte) []byte { return append(b, p...) })
}

// connect opens a connection the way kubectl does.
func (c *rawClient) connect(port, request int) (data, errs *rawStream, err error) {
	errs = c.openStream(0, "streamtype", "error", "port", strconv.Itoa(port), "requestid", strconv.Itoa(request))
	if a := <-errs.answers; a != "reply" {
		return nil, nil, fmt.Errorf("error stream: %s", a)
	}
	if err := errs.CloseWrite(); err != nil {
		return nil, nil, err
	}
	data = c.openStream(0, "streamtype", "data", "port", strconv.Itoa(port), "requestid", strconv.Itoa(request))
	if a := <-data.answers; a != "reply" {
		return data, errs, fmt.Errorf("data stream: %s", a)
	}
	return data, errs, nil
}

// session runs serveSPDY on one end of a connection and returns a client on the
// other. ended gets what serveSPDY returned.
func session(t testing.TB, cfg Config, user Session, client, server net.Conn) (c *rawClient, ended chan error) {
	t.Helper()
	ended = make(chan error, 1)
	h := New(cfg)
	go func() { ended <- h.serveSPDY(context.Background(), server, server, user) }()
	return newRawClient(t, client), ended
}

// tcpPair returns both ends of a TCP connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ca, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cb, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return ca.(*net.TCPConn), cb.(*net.TCPConn)
}

func spdyFlags(f byte) spdy.ControlFlags { return spdy.ControlFlags(f) }
