package kubectl

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/moby/spdystream/spdy"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/forwardtest"
)

// synWith makes a SYN_STREAM for stream 1 with a header block as it is.
func synWith(block []byte) []byte {
	b := appendControlHead(nil, typeSynStream, 10+len(block))
	b = binary.BigEndian.AppendUint32(b, 1)
	b = append(b, make([]byte, 6)...)
	return append(b, block...)
}

// zipped is a header block that decompresses to p.
func zipped(p []byte) []byte {
	// The dictionary is the library's own; a frame without headers shows its zlib head.
	var b bytes.Buffer
	w, err := zlib.NewWriterLevelDict(&b, zlib.BestCompression, dictionary())
	if err != nil {
		panic(err)
	}
	_, _ = w.Write(p)
	_ = w.Flush()
	return b.Bytes()
}

// dictionary returns that of SPDY/3, which the library does not export: it is what
// its writer's output refers to. Any other one is refused, which is a case as well.
func dictionary() []byte { return []byte("not the dictionary of SPDY") }

// framed returns frames as the library writes them.
func framed(frames ...spdy.Frame) []byte {
	var b bytes.Buffer
	f, err := spdy.NewFramer(&b, nil)
	if err != nil {
		panic(err)
	}
	for _, frame := range frames {
		if err := f.WriteFrame(frame); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func syn(id spdy.StreamId, h http.Header) spdy.Frame {
	return &spdy.SynStreamFrame{StreamId: id, Headers: h}
}

func manyHeaders(n, size int) http.Header {
	h := http.Header{}
	for i := range n {
		h.Set("h"+strings.Repeat("a", i), strings.Repeat("x", size))
	}
	return h
}

var podHeaders = http.Header{"streamtype": {"error"}, "port": {"80"}, "requestid": {"1"}}

func TestBrokenProtocolEndsTheSession(t *testing.T) {
	first := framed(syn(3, podHeaders))
	tests := []struct {
		name string
		wire []byte
	}{
		{"data of stream 0", appendData(nil, 0, 0, []byte("x"))},
		{"data of a stream that was never opened", appendData(framed(syn(1, podHeaders)), 3, 0, []byte("x"))},
		{"version 2", []byte{0x80, 2, 0, typePing, 0, 0, 0, 4, 0, 0, 0, 1}},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n")[:8]},
		{"long control frame", appendControlHead(nil, typeSettings, maxControlFrame+1)},
		{"short RST_STREAM", append(appendControlHead(nil, typeRstStream, 4), 0, 0, 0, 1)},
		{"short PING", appendControlHead(nil, typePing, 0)},
		{"short SYN_STREAM", append(appendControlHead(nil, typeSynStream, 4), 0, 0, 0, 1)},
		{"SYN_STREAM without a header block", synWith(nil)},
		{"short HEADERS", appendControlHead(nil, typeHeaders, 0)},
		{"SYN_REPLY", new(replies).append(nil, 2)},
		{"compressed garbage", synWith(bytes.Repeat([]byte("garbage"), 100))},
		{"another dictionary", synWith(zipped([]byte{0, 0, 0, 0}))},
		{"cut header block", synWith([]byte(zlibBegin))},
		{"cut deflate", synWith([]byte(zlibBegin + "\x00\x04\x00\xfb\xff\x00\x00"))},
		{"too many headers", framed(syn(1, manyHeaders(maxHeaders+1, 1)))},
		{"long header", framed(syn(1, manyHeaders(1, maxHeaderField+1)))},
		{"header bomb", framed(syn(1, manyHeaders(1, 15<<20)))},
		{"stream 0", framed(&spdy.PingFrame{Id: 1}, &spdy.HeadersFrame{StreamId: 1, Headers: manyHeaders(40, 1)})},
		{"stream twice", append(bytes.Clone(first), framed(syn(3, podHeaders))...)},
		{"even stream", framed(syn(2, podHeaders))},
		{"stream that falls", framed(syn(5, podHeaders), syn(3, podHeaders))},
		{"block of another session", append(framed(syn(1, podHeaders)), framed(syn(3, podHeaders))...)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				ended := make(chan error, 1)
				hang := func(ctx context.Context, _ uint16) (Connection, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				go func() { ended <- New(Config{}).serveSPDY(t.Context(), server, server, newPod(hang)) }()
				go func() { _, _ = client.Write(tt.wire) }()
				got, _ := io.ReadAll(client)
				want := appendGoAway(nil, 0, goAwayProtocolError)
				if len(got) < len(want) || !bytes.Equal(got[len(got)-4:], want[len(want)-4:]) {
					t.Errorf("answer %x", got)
				}
				var wrong *spdyError
				if err := <-ended; !errors.As(err, &wrong) {
					t.Errorf("ended with %v", err)
				}
				_ = client.Close()
			})
		})
	}
}

func TestFramesToIgnore(t *testing.T) {
	withEcho(t, Config{}, func(t *testing.T, c *rawClient, _ *pod) {
		c.send(appendControlHead(nil, 77, 3))
		c.send([]byte{1, 2, 3})
		c.send(append(appendControlHead(nil, typeSettings, 12), make([]byte, 12)...))
		c.send(append(appendControlHead(nil, typeWindowUpdate, 8), make([]byte, 8)...))
		c.send(appendRst(nil, 99, rstCancel))
		c.send(appendPing(nil, 2)) // an answer to nothing
		c.mu.Lock()
		c.sendSyn(&spdy.HeadersFrame{StreamId: 1, Headers: podHeaders})
		c.mu.Unlock()
		data, errs, err := c.connect(80, 1)
		if err != nil {
			t.Fatal(err)
		}
		c.send(appendData(nil, errs.id, 0, bytes.Repeat([]byte("x"), 200_000))) // nobody reads it
		c.send(appendData(nil, 2, flagFin, bytes.Repeat([]byte("stray"), 100_000)))
		c.mu.Lock()
		c.sendSyn(&spdy.HeadersFrame{StreamId: spdy.StreamId(data.id), Headers: podHeaders})
		c.mu.Unlock()
		if err := exchange(data, "hello"); err != nil {
			t.Error(err)
		}
	})
}

// A flood of streams, each of which is refused, costs nothing that stays.
func TestFloodOfStreams(t *testing.T) {
	withPod(t, Config{MaxConnections: 10}, func(t *testing.T, c *rawClient, p *pod, _ <-chan forward.Conn) {
		for i := range 5000 {
			s := c.openStream(0, "streamtype", "error", "port", "80")
			want := "reply"
			if i >= 10 {
				want = "reset"
			}
			if a := <-s.answers; a != want {
				t.Fatalf("stream %d: %s", i, a)
			}
			c.mu.Lock()
			delete(c.streams, s.id)
			c.mu.Unlock()
			c.remove(s.streamConn)
			if i < 10 {
				c.mu.Lock()
				c.streams[s.id] = s
				c.mu.Unlock()
			}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.doors[DoorSPDY] > 10 {
			t.Errorf("%d dials", p.doors[DoorSPDY])
		}
	})
}

// A frame may say that it is 16 MiB long; that alone allocates nothing.
func TestHugeFrames(t *testing.T) {
	client, server := tcpPair(t)
	a, b := forwardtest.Pipe()
	var p *pod
	p = newPod(func(context.Context, uint16) (Connection, error) { return &link{pod: p, conn: a}, nil })
	c, ended := session(t, Config{}, p, client, server)
	data, _, err := c.connect(80, 1)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c.send(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, data.id), 1<<24-1))
	c.send([]byte("beginning"))
	if _, err := io.ReadFull(b, make([]byte, 9)); err != nil {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("%d bytes allocated", n)
	}
	c.close()
	<-ended
	_ = b.Reset(nil)
}

// fuzzSession lets serve read wire from a client that hangs up behind it, and checks
// that everything ends.
func fuzzSession(t *testing.T, wire []byte, serve func(ctx context.Context, h *Handler, conn net.Conn, p *pod)) {
	client, server := net.Pipe()
	var p *pod
	p = newPod(func(context.Context, uint16) (Connection, error) {
		a, b := forwardtest.Pipe()
		go func() {
			_, _ = io.Copy(struct{ io.Writer }{b}, struct{ io.Reader }{b})
			_ = b.Close()
		}()
		return &link{pod: p, conn: a}, nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(context.Background(), New(Config{MaxConnections: 4, StreamBuffer: 64 << 10, SessionBuffer: 128 << 10}), server, p)
	}()
	go func() { _, _ = io.Copy(io.Discard, client) }()
	_, _ = client.Write(wire)
	_ = client.Close()
	<-done
}

func FuzzSession(f *testing.F) {
	data := http.Header{"streamtype": {"data"}, "port": {"80"}, "requestid": {"1"}}
	f.Add(framed(syn(1, podHeaders), syn(3, data), &spdy.DataFrame{StreamId: 3, Data: []byte("hello")}, &spdy.DataFrame{StreamId: 3, Flags: spdy.DataFlagFin}), false)
	f.Add(framed(syn(1, podHeaders), &spdy.RstStreamFrame{StreamId: 1, Status: spdy.Cancel}, &spdy.PingFrame{Id: 1}), false)
	f.Add(framed(&spdy.GoAwayFrame{}), false)
	f.Add(clientFrame(wsFin|opBinary, framed(syn(1, podHeaders), syn(3, data))), true)
	f.Add(synWith([]byte(zlibBegin+emptyHeaders)), false)
	f.Fuzz(func(t *testing.T, wire []byte, tunnel bool) {
		fuzzSession(t, wire, func(ctx context.Context, h *Handler, conn net.Conn, p *pod) {
			if tunnel {
				_ = h.serveTunnel(ctx, conn, conn, p)
			} else {
				_ = h.serveSPDY(ctx, conn, conn, p)
			}
		})
	})
}

// A text message is none of the tunnel's.
func TestTunnelRefusesText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- New(Config{}).serveTunnel(t.Context(), server, server, newPod(nil)) }()
		go func() { _, _ = client.Write(clientFrame(wsFin|opText, []byte("hello"))) }()
		got, _ := io.ReadAll(client)
		if want := wsClose(closeUnsupported, ""); !bytes.Equal(got, want) {
			t.Errorf("answer %x", got)
		}
		var wrong *wsError
		if err := <-ended; !errors.As(err, &wrong) {
			t.Errorf("ended with %v", err)
		}
		_ = client.Close()
	})
}

func TestTunnelAnswersPingsAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- New(Config{}).serveTunnel(t.Context(), server, server, newPod(nil)) }()
		go func() {
			_, _ = client.Write(clientFrame(wsFin|opPing, []byte("hi")))
			_, _ = client.Write(clientFrame(wsFin|opBinary, appendPing(nil, 7)))
			_, _ = client.Write(clientFrame(wsFin|opClose, []byte{3, 232}))
		}()
		got, _ := io.ReadAll(client)
		pong := append(appendWSHead(nil, opPong, 2), "hi"...)
		answer := append(appendWSHead(nil, opBinary, 12), appendPing(nil, 7)...)
		farewell := wsClose(closeNormal, "")
		for _, want := range [][]byte{pong, answer, farewell} {
			if !bytes.Contains(got, want) {
				t.Errorf("answer %x lacks %x", got, want)
			}
		}
		if err := <-ended; !errors.Is(err, errLost) {
			t.Errorf("ended with %v", err)
		}
		_ = client.Close()
	})
}
