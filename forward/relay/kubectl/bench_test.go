package kubectl

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/culvert-k8s/culvert/forward"
)

// source sends without end, sink takes whatever comes.
func source(c *net.TCPConn) {
	p := make([]byte, 64<<10)
	for {
		if _, err := c.Write(p); err != nil {
			return
		}
	}
}

func sink(c *net.TCPConn) { _, _ = io.Copy(io.Discard, struct{ io.Reader }{c}) }

// eachPath runs f for every transport with the server under test and with one of
// the same shape made of upstream's parts.
func eachPath(b *testing.B, f func(b *testing.B, open func(port uint16) *forwarding)) {
	for _, transport := range transports {
		b.Run("culvert/"+transport, func(b *testing.B) {
			srv := serve(b, Config{}, newPod(nil), true)
			f(b, func(port uint16) *forwarding { return kubectl(b, srv, transport, port) })
		})
	}
	b.Run("upstream/spdy", func(b *testing.B) {
		srv := serveUpstream(b)
		f(b, func(port uint16) *forwarding { return kubectl(b, srv, "spdy", port) })
	})
}

func BenchmarkDownload(b *testing.B) {
	eachPath(b, func(b *testing.B, open func(port uint16) *forwarding) {
		c := open(listen(b, source)).dial(b)
		p := make([]byte, 64<<10)
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			if _, err := io.ReadFull(c, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkUpload(b *testing.B) {
	eachPath(b, func(b *testing.B, open func(port uint16) *forwarding) {
		c := open(listen(b, sink)).dial(b)
		p := make([]byte, 64<<10)
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			if _, err := c.Write(p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkPingPong(b *testing.B) {
	eachPath(b, func(b *testing.B, open func(port uint16) *forwarding) {
		c := open(listen(b, echo)).dial(b)
		p := make([]byte, 64)
		for b.Loop() {
			if _, err := c.Write(p); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(c, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkConnect is one connection with one request and one answer, both sides
// finishing, as a simple HTTP client makes them.
func BenchmarkConnect(b *testing.B) {
	for _, parallel := range []int{1, 16} {
		b.Run(fmt.Sprint(parallel), func(b *testing.B) {
			eachPath(b, func(b *testing.B, open func(port uint16) *forwarding) {
				addr := open(listen(b, echo)).addr
				todo := make(chan struct{}, parallel)
				var wg sync.WaitGroup
				for range parallel {
					wg.Go(func() {
						for range todo {
							once(b, addr)
						}
					})
				}
				for b.Loop() {
					todo <- struct{}{}
				}
				close(todo)
				wg.Wait()
			})
		})
	}
}

func once(b *testing.B, addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Error(err)
		return
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 200)); err != nil {
		b.Error(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if n, err := io.Copy(io.Discard, c); err != nil || n != 200 {
		b.Errorf("%d bytes, %v", n, err)
	}
}

// BenchmarkWire is the wire alone: a client as lean as the server, no TLS, and a pod
// that is this process.
func BenchmarkWire(b *testing.B) {
	setup := func(b *testing.B) (*rawStream, forward.Conn) {
		client, server := tcpPair(b)
		g := newGiven()
		p := newPod(func(context.Context, uint16) (Connection, error) { return g, nil })
		c, ended := session(b, Config{}, p, client, server)
		data, _, err := c.connect(80, 1)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			close(g.done)
			c.close()
			<-ended
		})
		return data, <-g.conns
	}
	move := func(b *testing.B, from, to forward.Conn) {
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{to}) })
		p := make([]byte, forward.MaxFrame)
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			if _, err := from.Write(p); err != nil {
				b.Fatal(err)
			}
		}
		_ = from.Reset(nil)
		wg.Wait()
	}
	b.Run("download", func(b *testing.B) {
		data, pod := setup(b)
		move(b, pod, data)
	})
	b.Run("upload", func(b *testing.B) {
		data, pod := setup(b)
		move(b, data, pod)
	})
	b.Run("pingpong", func(b *testing.B) {
		data, pod := setup(b)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(struct{ io.Writer }{pod}, struct{ io.Reader }{pod}) })
		p := make([]byte, 64)
		for b.Loop() {
			_, _ = data.Write(p)
			if _, err := io.ReadFull(data, p); err != nil {
				b.Fatal(err)
			}
		}
		_ = data.Reset(nil)
		wg.Wait()
	})
}

// BenchmarkMessages reads what kubectl sends for one piece of data, three messages,
// with the reader of this package and with the library.
func BenchmarkMessages(b *testing.B) {
	piece := make([]byte, 32<<10)
	wire := clientFrame(wsFin|opBinary, piece[:4])
	wire = append(wire, clientFrame(wsFin|opBinary, piece[:4])...)
	wire = append(wire, clientFrame(wsFin|opBinary, piece)...)
	feed := func(b *testing.B) (client, server *net.TCPConn, stop func()) {
		client, server = tcpPair(b)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, err := client.Write(wire); err != nil {
					return
				}
			}
		})
		return client, server, func() {
			_, _ = client.Close(), server.Close()
			wg.Wait()
		}
	}
	run := func(b *testing.B, r io.Reader) {
		buf := make([]byte, 32<<10)
		b.SetBytes(int64(len(piece)))
		b.ReportAllocs()
		for b.Loop() {
			for n := 0; n < len(piece)+8; {
				m, err := r.Read(buf)
				if n += m; err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.Run("own", func(b *testing.B) {
		_, server, stop := feed(b)
		defer stop()
		run(b, tunnelReader{&wsReader{r: bufio.NewReaderSize(server, readSize)}})
	})
	b.Run("library", func(b *testing.B) {
		_, server, stop := feed(b)
		defer stop()
		conn, err := websocket.Accept(&hijacked{ResponseRecorder: httptest.NewRecorder(), conn: server}, upgradeRequest(), nil)
		if err != nil {
			b.Fatal(err)
		}
		conn.SetReadLimit(-1)
		run(b, websocket.NetConn(b.Context(), conn, websocket.MessageBinary))
		_ = conn.CloseNow()
	})
}

// hijacked is an http.ResponseWriter over a connection that a test has made.
type hijacked struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

func upgradeRequest() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	return r
}
