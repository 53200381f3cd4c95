package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// openAPI opens a stream to the API server and waits for the answer.
func (l *link) openAPI(ctx context.Context) (*tunnel.Stream, error) {
	st, err := connect.Open(ctx, l.sess, &stream.Open{Kind: stream.KindAPI, ID: stream.NewID(), User: "relay"})
	if err != nil {
		return nil, err
	}
	_ = st.SetDeadline(time.Now().Add(limit))
	reply, err := stream.ReadReply(st)
	if err == nil {
		err = reply.Err()
	}
	if err != nil {
		st.Close()
		return nil, err
	}
	return st, st.SetDeadline(time.Time{})
}

// startAPI runs an agent in front of an API server, and returns the relay's end of
// its tunnel.
func startAPI(t testing.TB, cfg Config) (*running, *link) {
	t.Helper()
	r := startRelay(t, &relay{})
	a := start(t, cfg, r)
	return a, r.tunnel(t, 1)
}

// apiServer stands for the API server: over TLS it shouts back each line of an
// upgraded connection, and answers anything else with its path.
func apiServer(t testing.TB) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, req.Proto, " ", req.URL.Path)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
		_ = rw.Flush()
		for {
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = rw.WriteString(strings.ToUpper(line))
			_ = rw.Flush()
		}
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// trusting returns TLS that knows the certificates of these servers.
func trusting(servers ...*httptest.Server) *tls.Config {
	pool := x509.NewCertPool()
	for _, s := range servers {
		pool.AddCert(s.Certificate())
	}
	return &tls.Config{RootCAs: pool, ServerName: "example.com"}
}

// TestHijackOverTheAPIServersStream is how kubectl exec goes in a private cluster:
// a front door takes the caller's TLS, a reverse proxy passes the upgrade on to the
// API server, over TLS inside a raw stream of the tunnel. net/http interrupts reads
// by deadlines on the way, which once spoilt the TLS inside for good.
func TestHijackOverTheAPIServersStream(t *testing.T) {
	api := apiServer(t)
	a, l := startAPI(t, Config{APIServer: api.Listener.Addr().String()})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		st, err := l.openAPI(ctx)
		if err != nil {
			return nil, err
		}
		return st, nil
	}
	plain := &http.Transport{TLSClientConfig: trusting(api), DialContext: dial, ForceAttemptHTTP2: true}
	upgrades := &http.Transport{TLSClientConfig: trusting(api), DialContext: dial} // HTTP/2 has none
	front := httptest.NewTLSServer(&httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: "https", Host: "apiserver.example"}) },
		Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Upgrade") != "" {
				return upgrades.RoundTrip(req)
			}
			return plain.RoundTrip(req)
		}),
	})
	defer front.Close()

	for range 3 { // plain requests, one after the other over one stream
		resp, err := front.Client().Get(front.URL + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != "HTTP/2.0 /healthz" || err != nil {
			t.Errorf("plain request: %q, %v", body, err)
		}
		resp.Body.Close()
	}
	caller, err := tls.Dial("tcp", front.Listener.Addr().String(), trusting(front))
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	shout(t, caller)
	caller.Close()
	plain.CloseIdleConnections()
	for _, line := range a.log.wait(t, "stream", 2) {
		if line["kind"] != "api" || line["user"] != "relay" || line["code"] != "ok" && line["code"] != "canceled" || line["bytes_up"].(float64) < 100 {
			t.Errorf("log line: %v", line)
		}
	}
}

// TestTLSInsideARawStreamSurvivesDeadlines interrupts reads of TLS that has been
// put inside the stream, as net/http does.
func TestTLSInsideARawStreamSurvivesDeadlines(t *testing.T) {
	api := apiServer(t)
	_, l := startAPI(t, Config{APIServer: api.Listener.Addr().String()})
	st, err := l.openAPI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(st, trusting(api))
	defer c.Close()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	shout(t, c)
}

// shout upgrades a connection and has lines shouted back, with a read that a
// deadline interrupts before each.
func shout(t testing.TB, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(limit))
	if _, err := io.WriteString(c, "GET /exec HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil) //nolint:bodyclose // an upgrade has no body
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	for i := range 3 {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		if _, err := br.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read after the deadline: %v", err)
		}
		_ = c.SetReadDeadline(time.Now().Add(limit))
		fmt.Fprintf(c, "line %d\n", i)
		if got, err := br.ReadString('\n'); got != fmt.Sprintf("LINE %d\n", i) || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

// TestAPIRefused says why not, and names no address.
func TestAPIRefused(t *testing.T) {
	closed := reachtest.Listen(t)
	closed.Close()
	for _, tt := range []struct {
		name string
		cfg  Config
		want stream.Error
		log  string
	}{
		{"not allowed", Config{}, stream.Error{Code: stream.Policy, Text: "the API server may not be reached through this agent: it runs without --allow-apiserver"}, "--allow-apiserver"},
		{"refused", Config{APIServer: closed.Addr().String()}, stream.Error{Code: stream.Unreachable, Text: "the agent cannot reach the API server"}, "connection refused"},
		{"slow", Config{APIServer: "192.0.2.1:443", OpenTimeout: time.Nanosecond}, stream.Error{Code: stream.Timeout, Text: "the API server did not accept the agent's connection in time"}, "192.0.2.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := tt.cfg
			a := &Agent{cfg: cfg, leaving: make(chan struct{})}
			var err error
			if a.cfg, err = withRest(cfg).withDefaults(); err != nil {
				t.Fatal(err)
			}
			_, err = a.reachAPI(t.Context(), 1)
			var got *stream.Error
			if !errors.As(err, &got) || *got != tt.want || !strings.Contains(err.Error(), tt.log) {
				t.Errorf("%v, told as %v", err, got)
			}
		})
	}
	a, l := startAPI(t, Config{})
	if _, err := l.openAPI(t.Context()); !errors.Is(err, &stream.Error{Code: stream.Policy}) {
		t.Errorf("not allowed, over the tunnel: %v", err)
	}
	if line := a.log.wait(t, "stream", 1)[0]; line["code"] != "policy" || line["kind"] != "api" {
		t.Errorf("log line: %v", line)
	}
	if slices.Contains(l.reg.GetCapabilities(), capabilityAPI) {
		t.Error("offered all the same")
	}
}

// withRest completes a config by what must be there.
func withRest(cfg Config) Config {
	cfg.Node, cfg.Relays, cfg.Pods, cfg.Identity = "n", []string{"r:1"}, local(nil), &fixed{}
	return cfg
}

// TestAPIStreamsAreBounded counts them, in the metrics and while draining too.
func TestAPIStreamsAreBounded(t *testing.T) {
	ln := reachtest.Listen(t)
	a, l := startAPI(t, Config{APIServer: ln.Addr().String(), MaxAPIStreams: 2, DrainTimeout: time.Hour})
	if !slices.Contains(l.reg.GetCapabilities(), capabilityAPI) {
		t.Error("not offered")
	}
	var conns []*tunnel.Stream
	for range 2 {
		st, err := l.openAPI(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		conns = append(conns, st)
	}
	if _, err := l.openAPI(t.Context()); !errors.Is(err, &stream.Error{Code: stream.Overloaded}) {
		t.Errorf("one too many: %v", err)
	}
	eventually(t, "two are counted", func() bool {
		var metrics strings.Builder
		a.WriteMetrics(&metrics)
		return strings.Contains(metrics.String(), "culvert_agent_api_streams 2")
	})
	conns[0].Reset()
	a.log.wait(t, "stream", 2)
	eventually(t, "there is room again", func() bool { return a.apis.Load() == 1 })
	if _, err := l.openAPI(t.Context()); err != nil {
		t.Errorf("after the end of one: %v", err)
	}
	l.sess.Close()
	eventually(t, "none runs", func() bool { return a.running.Load() == 0 && a.apis.Load() == 0 })
	if code := a.log.wait(t, "stream", 4)[3]["code"]; code != "tunnel-lost" {
		t.Errorf("code %v", code)
	}
}

// TestAPIDrain lets a stream to the API server run while the agent leaves.
func TestAPIDrain(t *testing.T) {
	ln := reachtest.Listen(t)
	a, l := startAPI(t, Config{APIServer: ln.Addr().String(), DrainTimeout: time.Hour})
	st, err := l.openAPI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server := reachtest.Accept(t, ln)
	a.stop()
	a.log.wait(t, "agent is going away", 1)
	eventually(t, "new ones are refused", func() bool {
		_, err := l.openAPI(t.Context())
		return errors.Is(err, &stream.Error{Code: stream.GoingAway})
	})
	fmt.Fprint(server, "bye")
	server.CloseWrite()
	if got, err := io.ReadAll(st); string(got) != "bye" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	st.Close()
	if err := a.ended(t); err != nil {
		t.Error(err)
	}
}

// TestAPIReset tells the log that it was the API server.
func TestAPIReset(t *testing.T) {
	ln := reachtest.Listen(t)
	a, l := startAPI(t, Config{APIServer: ln.Addr().String()})
	st, err := l.openAPI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server := reachtest.Accept(t, ln)
	server.SetLinger(0)
	server.Close()
	if _, err := io.ReadAll(st); !errors.Is(err, forward.ErrReset) {
		t.Errorf("the relay reads %v", err)
	}
	if line := a.log.wait(t, "stream", 1)[0]; line["code"] != "unreachable" || !strings.Contains(fmt.Sprint(line["reason"]), "reset by peer") {
		t.Errorf("log line: %v", line)
	}
	// A connection that is lost in another way has words of its own.
	if err := brokenAPI(io.ErrUnexpectedEOF); stream.TextOf(err) != "the connection to the API server was lost" {
		t.Error(err)
	}
}
