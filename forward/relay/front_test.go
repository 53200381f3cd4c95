package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// web is a handler for the HTTP door: /who tells what it sees, /echo hijacks and
// echoes lines, /hold answers at once and ends when it is told to.
type web struct {
	release chan struct{}
	cause   chan error // why a request of /hold or /echo ended
}

func newWeb() *web { return &web{release: make(chan struct{}), cause: make(chan error, 16)} }

func (h *web) on(*Server) http.Handler { return h }

func (h *web) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/who":
		who := "nobody"
		if len(r.TLS.VerifiedChains) > 0 {
			who = r.TLS.VerifiedChains[0][0].Subject.CommonName
		}
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Proto, who, r.RemoteAddr)
	case "/hold":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-h.release:
		case <-r.Context().Done():
		}
		h.cause <- context.Cause(r.Context())
		_, _ = io.WriteString(w, "held")
	case "/echo":
		h.echo(w, r)
	case "/panic":
		panic("the handler fails")
	}
}

func (h *web) echo(w http.ResponseWriter, r *http.Request) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer c.Close()
	stop := context.AfterFunc(r.Context(), func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	for err == nil {
		var line string
		_ = rw.Flush()
		if line, err = rw.ReadString('\n'); err == nil {
			_, err = rw.WriteString(line)
		}
	}
	if coded := (*stream.Error)(nil); errors.As(context.Cause(r.Context()), &coded) {
		err = coded
	}
	h.cause <- err
}

// browser is an HTTP client of a house; h2 unless protos say otherwise.
func (h *house) browser(protos []string, certs ...tls.Certificate) *http.Client {
	tc := h.dial("", certs...)
	tc.NextProtos = protos
	tr := &http.Transport{DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := &tls.Dialer{Config: tc}
		return d.DialContext(ctx, "tcp", h.addr)
	}, ForceAttemptHTTP2: true}
	h.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func get(t *testing.T, c *http.Client, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, "https://relay"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, err.Error()
	}
	return resp.StatusCode, string(b)
}

// secure is a TLS connection for what no client of net/http would do.
func (h *house) secure(protos ...string) *tls.Conn {
	h.t.Helper()
	tc := h.dial("")
	tc.NextProtos = protos
	c := tls.Client(h.raw(), tc)
	if err := c.HandshakeContext(within(h.t)); err != nil {
		h.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// upgraded is a connection to /echo.
func (h *house) upgraded() (*tls.Conn, *bufio.Reader) {
	h.t.Helper()
	c := h.secure("http/1.1")
	write(h.t, c, []byte("GET /echo HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"))
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		h.t.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()
	return c, br
}

func echoed(t *testing.T, c net.Conn, br *bufio.Reader) {
	t.Helper()
	for i := range 3 {
		want := fmt.Sprintf("line %d\n", i)
		write(t, c, []byte(want))
		if got, err := br.ReadString('\n'); got != want {
			t.Fatalf("echo of %q: %q, %v", want, got, err)
		}
	}
}

// metric waits until the metrics hold a line.
func (h *house) metric(line string) {
	h.t.Helper()
	eventually(h.t, line, func() bool {
		var b bytes.Buffer
		h.s.WriteMetrics(&b)
		return strings.Contains(b.String(), line+"\n")
	})
}

func TestOneDoorForAll(t *testing.T) {
	h := newHouse(t, Config{HTTP: newWeb().on})
	user := h.person("carol")
	for name, tc := range map[string]struct {
		protos []string
		certs  []tls.Certificate
		want   string
	}{
		"h2":                  {[]string{"h2", "http/1.1"}, nil, "HTTP/2.0 nobody 127.0.0.1:"},
		"http/1.1":            {[]string{"http/1.1"}, nil, "HTTP/1.1 nobody 127.0.0.1:"},
		"nothing":             {nil, nil, "HTTP/1.1 nobody 127.0.0.1:"},
		"certificate":         {[]string{"h2"}, []tls.Certificate{user}, "HTTP/2.0 carol 127.0.0.1:"},
		"certificate, no h2":  {nil, []tls.Certificate{user}, "HTTP/1.1 carol 127.0.0.1:"},
		"one of ours as well": {[]string{"http/1.1", "unknown/1"}, nil, "HTTP/1.1 nobody 127.0.0.1:"},
	} {
		t.Run(name, func(t *testing.T) {
			b := h.browser(tc.protos, tc.certs...)
			for range 2 { // the second time on an idle connection
				if code, body := get(t, b, "/who"); code != http.StatusOK || !strings.HasPrefix(body, tc.want) {
					t.Errorf("%d %q", code, body)
				}
			}
		})
	}
	h.metric(`culvert_relay_http_connections 6`)
	h.metric(`culvert_relay_http_requests_in_flight 0`)
	h.metric(`culvert_relay_handshakes_pending 0`)
	node, _ := h.agentOf("node-a")
	client := h.clientOf()
	p := through(t, client, node)
	sibling(t, p)
	_, err := h.come(stream.ALPNClient, hello(stream.CredentialToken, "wrong"))
	if stream.CodeOf(err) != stream.Unauthenticated {
		t.Errorf("wrong token: %v", err)
	}
	if _, err := h.come(stream.ALPNAgent, nil, user); err == nil || errors.As(err, new(*stream.Error)) {
		t.Errorf("user as an agent: %v", err)
	}
}

func TestHijack(t *testing.T) {
	w := newWeb()
	h := newHouse(t, Config{HTTP: w.on, HandshakeTimeout: 2 * time.Second})
	c, br := h.upgraded()
	echoed(t, c, br)
	time.Sleep(2500 * time.Millisecond) // no deadline of the head of a request is left
	echoed(t, c, br)
	h.metric(`culvert_relay_http_requests_in_flight 1`)
	_ = c.Close()
	if err := <-w.cause; !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the handler reads %v", err)
	}
	h.metric(`culvert_relay_http_connections 0`)
	if n := h.s.sessions.Load(); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// Those who connect and never finish a request keep nobody out, and are hung up on;
// who is served is left alone.
func TestSlowRequestsKeepNobodyOut(t *testing.T) {
	h := newHouse(t, Config{HTTP: newWeb().on, MaxHandshakes: 4, HandshakeTimeout: time.Hour})
	c, br := h.upgraded()
	for i := range 12 {
		protos := []string{"http/1.1"}
		if i%3 == 0 {
			protos[0] = "h2"
		}
		s := h.secure(protos...)
		if i%3 == 0 {
			write(t, s, []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
		} else {
			_, _ = s.Write([]byte("GET / HTTP/1.1\r\nX: "))
		}
	}
	for range 5 {
		if code, _ := get(t, h.browser([]string{"h2"}), "/who"); code != http.StatusOK {
			t.Errorf("answer %d", code)
		}
	}
	if _, err := h.come(stream.ALPNClient, hello(stream.CredentialToken, "client")); err != nil {
		t.Error(err)
	}
	echoed(t, c, br)
	if n := h.s.door.len(); n > 4 {
		t.Errorf("%d at the door", n)
	}
	h.metric(`culvert_relay_refused_total{reason="crowded-out"} 9`)
}

func TestSlowRequestIsHungUpOn(t *testing.T) {
	h := newHouse(t, Config{HTTP: newWeb().on, HandshakeTimeout: 300 * time.Millisecond})
	const begin = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for _, tt := range []struct{ proto, text string }{
		{"http/1.1", ""},
		{"http/1.1", "GET / HT"},
		{"http/1.1", "GET / HTTP/1.1\r\nHost: relay\r\nX: y"},
		{"h2", ""},
		{"h2", begin},
		{"h2", begin + "\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82"}, // a header that goes on
	} {
		c := h.secure(tt.proto)
		write(t, c, []byte(tt.text))
		if b, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) || len(b) > 200 {
			t.Errorf("%s %q: %d bytes, %v", tt.proto, tt.text, len(b), err)
		}
	}
	eventually(t, "nobody is at the door", func() bool { return h.s.door.len() == 0 })
	if n := h.s.sessions.Load(); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

func TestHeaderBomb(t *testing.T) {
	h := newHouse(t, Config{HTTP: newWeb().on})
	for proto, want := range map[string]int{"http/1.1": http.StatusRequestHeaderFieldsTooLarge, "h2": http.StatusRequestHeaderFieldsTooLarge} {
		b := h.browser([]string{proto})
		for _, size := range []int{httpMaxHeader / 2, 4 * httpMaxHeader} {
			req, _ := http.NewRequestWithContext(within(t), http.MethodGet, "https://relay/who", http.NoBody)
			for i := range size >> 10 {
				req.Header.Set(fmt.Sprint("X-", i), strings.Repeat("x", 1<<10))
			}
			resp, err := b.Do(req)
			if size < httpMaxHeader {
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("%s, %d bytes: %v, %v", proto, size, resp, err)
				}
			} else if err == nil && resp.StatusCode != want { // or it is hung up on while it still sends
				t.Errorf("%s, %d bytes: %d", proto, size, resp.StatusCode)
			}
			if err == nil {
				_ = resp.Body.Close()
			}
		}
	}
	eventually(t, "nobody is at the door", func() bool { return h.s.door.len() == 0 })
}

// Connections count as sessions once they have asked for something. Those that rest
// make room, those that are served do not.
func TestHTTPConnectionsAreLimited(t *testing.T) {
	w := newWeb()
	h := newHouse(t, Config{HTTP: w.on, MaxSessions: 4}) // three for users
	idle := h.browser([]string{"http/1.1"})
	if code, _ := get(t, idle, "/who"); code != http.StatusOK {
		t.Fatal(code)
	}
	var holding sync.WaitGroup
	for _, proto := range []string{"h2", "http/1.1", "http/1.1"} {
		b := h.browser([]string{proto})
		holding.Go(func() {
			if code, body := get(t, b, "/hold"); code != http.StatusOK || body != "held" {
				t.Errorf("%d %q", code, body)
			}
		})
	}
	h.metric(`culvert_relay_http_requests_in_flight 3`) // the third in the place of the idle one
	h.metric(`culvert_relay_refused_total{reason="made-room"} 1`)
	for _, proto := range []string{"h2", "http/1.1"} {
		if code, body := get(t, h.browser([]string{proto}), "/who"); code != http.StatusServiceUnavailable || !strings.Contains(body, "try again later") {
			t.Errorf("one too many: %d %q", code, body)
		}
	}
	if _, err := h.come(stream.ALPNClient, hello(stream.CredentialToken, "client")); stream.CodeOf(err) != stream.Overloaded {
		t.Errorf("client: %v", err)
	}
	if _, err := h.come(stream.ALPNAgent, nil, h.person("node-a", identity.OrgNodes)); err != nil {
		t.Errorf("agent: %v", err)
	}
	close(w.release)
	holding.Wait()
	// All rest now: a client's session takes the place of one.
	if _, err := h.come(stream.ALPNClient, hello(stream.CredentialToken, "client")); err != nil {
		t.Errorf("client: %v", err)
	}
	if code, _ := get(t, idle, "/who"); code != http.StatusOK {
		t.Errorf("answer %d", code)
	}
}

func TestPanicsAndComplaintsAreLoggedQuietly(t *testing.T) {
	h := newHouse(t, Config{HTTP: newWeb().on})
	for range 100 {
		if code, _ := get(t, h.browser([]string{"http/1.1"}), "/panic"); code != 0 {
			t.Fatal(code)
		}
	}
	lines := h.log.all(t, "http")
	if len(lines) < 5 || len(lines) > 60 || !strings.Contains(fmt.Sprint(lines[0]["err"]), "the handler fails") {
		t.Errorf("%d lines, %v", len(lines), lines[:1])
	}
	h.metric(`culvert_relay_http_connections 0`)
	h.metric(`culvert_relay_http_requests_in_flight 0`)
}

// net/http reads some of what a handler has left unread before it answers, with no
// limit of its own: who promises a body and sends none must not stay for ever.
func TestBodyThatNobodyReads(t *testing.T) {
	for name, head := range map[string]string{
		"length": "Content-Length: 100\r\n\r\n", "chunks": "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
	} {
		w := newWeb()
		h := newHouse(t, Config{HTTP: w.on})
		h.s.front.unreadTime = 50 * time.Millisecond
		c := h.secure("http/1.1")
		write(t, c, []byte("POST /who HTTP/1.1\r\nHost: relay\r\n"+head))
		if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200") {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		h.metric(`culvert_relay_http_connections 0`)
	}
}
