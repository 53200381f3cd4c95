package relay

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rude is a client of HTTP/2 that writes whatever it likes.
type rude struct {
	*tls.Conn
	framer *http2.Framer
	block  bytes.Buffer
	hpack  *hpack.Encoder
	next   uint32
}

func (h *house) rude() *rude {
	h.t.Helper()
	r := &rude{Conn: h.secure("h2"), next: 1}
	_ = r.SetDeadline(time.Now().Add(patience))
	r.framer = http2.NewFramer(r.Conn, r.Conn)
	r.framer.AllowIllegalWrites = true
	r.hpack = hpack.NewEncoder(&r.block)
	write(h.t, r.Conn, []byte(http2.ClientPreface))
	if err := r.framer.WriteSettings(); err != nil {
		h.t.Fatal(err)
	}
	return r
}

// fields makes a header block of name and value in turn.
func (r *rude) fields(of ...string) []byte {
	r.block.Reset()
	for i := 0; i < len(of); i += 2 {
		_ = r.hpack.WriteField(hpack.HeaderField{Name: of[i], Value: of[i+1]})
	}
	return bytes.Clone(r.block.Bytes())
}

func (r *rude) plain(path string) []byte {
	return r.fields(":method", "GET", ":scheme", "https", ":authority", "relay", ":path", path)
}

// ask opens a stream with a whole header block.
func (r *rude) ask(block []byte) (id uint32, err error) {
	id = r.next
	r.next += 2
	return id, r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndStream: true, EndHeaders: true})
}

// crowdOf counts the requests that are served, and remembers the most.
type crowdOf struct {
	http.Handler
	now, most atomic.Int64
}

func (c *crowdOf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := c.now.Add(1)
	defer c.now.Add(-1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
	c.Handler.ServeHTTP(w, r)
}

// Who floods the HTTP door on one connection of HTTP/2 comes to its end or is not
// read any more; meanwhile and afterwards others are served, and nothing is kept.
func TestFloodsOfHTTP2(t *testing.T) {
	zeros := make([]byte, 16<<10)
	for name, flood := range map[string]struct {
		deaf  bool // nothing is read of what comes back
		quick bool // each round is answered at once, so there need be no end
		round func(r *rude) error
	}{
		"rapid reset": {quick: true, round: func(r *rude) error { // CVE-2023-44487
			id, err := r.ask(r.plain("/hold"))
			if err == nil {
				err = r.framer.WriteRSTStream(id, http2.ErrCodeCancel)
			}
			return err
		}},
		"resets that the server makes": {quick: true, round: func(r *rude) error { // CVE-2025-8671: a window that overflows
			id, err := r.ask(r.plain("/hold"))
			if err == nil {
				err = r.framer.WriteWindowUpdate(id, 1<<31-1)
			}
			return err
		}},
		"continuations": {round: func(r *rude) error { // CVE-2023-45288
			if r.next == 1 {
				r.next = 3
				return r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.plain("/who")})
			}
			return r.framer.WriteContinuation(1, false, r.fields("x-more", strings.Repeat("x", 8<<10)))
		}},
		"continuations of nothing": {quick: true, round: func(r *rude) error {
			if r.next == 1 {
				r.next = 3
				return r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.plain("/who")})
			}
			return r.framer.WriteContinuation(1, false, nil)
		}},
		"header bomb": {round: func(r *rude) error { // one entry of the table, named again and again by one byte
			block := r.fields("x-bomb", strings.Repeat("x", 3<<10))
			_, err := r.ask(append(append(r.plain("/who"), block...), bytes.Repeat([]byte{0x80 | 62}, 15<<10)...))
			return err
		}},
		"settings": {deaf: true, round: func(r *rude) error { return r.framer.WriteSettings() }},
		"pings":    {deaf: true, round: func(r *rude) error { return r.framer.WritePing(false, [8]byte{}) }},
		"huge frame": {round: func(r *rude) error {
			return r.framer.WriteRawFrame(http2.FrameData, 0, 1, bytes.Repeat(zeros, 2))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWeb()
			w.cause = make(chan error, 1<<20)
			crowd := &crowdOf{Handler: w}
			h := newHouse(t, Config{HTTP: func(*Server) http.Handler { return crowd }, HandshakeTimeout: 5 * time.Second})
			innocent := h.browser([]string{"h2"})
			if code, _ := get(t, innocent, "/who"); code != http.StatusOK {
				t.Fatal(code)
			}
			before := heap()
			r := h.rude()
			heard := make(chan struct{})
			go func() {
				defer close(heard)
				if !flood.deaf {
					_, _ = io.Copy(io.Discard, r.Conn)
				}
			}()
			most := 5_000_000
			if flood.quick {
				most = 20_000
			}
			sent := 0
			for sent < most && flood.round(r) == nil {
				sent++
			}
			if sent == most && !flood.quick {
				t.Error("all of it was taken")
			}
			t.Logf("%d rounds", sent)
			if code, _ := get(t, innocent, "/who"); code != http.StatusOK {
				t.Errorf("an innocent is answered %d", code)
			}
			if grown := heap() - before; grown > 32<<20 {
				t.Errorf("the flood holds %d bytes", grown)
			}
			if n := crowd.most.Load(); n > httpMaxStreams {
				t.Errorf("%d requests were served at once", n)
			}
			_ = r.Close()
			<-heard
			eventually(t, "nothing is served any more", func() bool { return crowd.now.Load() == 0 })
			h.metric(`culvert_relay_http_requests_in_flight 0`)
			h.metric(`culvert_relay_http_connections 1`)
		})
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
