package kube

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// patienceInTests is for what should happen at once. A test that needs it fails.
const patienceInTests = 20 * time.Second

const (
	relaysToken = "token-of-the-relay"
	janesToken  = "token-of-jane"
)

// frontRig is a front between a client and something in the place of the API
// server, for what the real one cannot be made to do.
type frontRig struct {
	t     *testing.T
	kube  *Kube
	front *front
	api   *httptest.Server
	relay *httptest.Server
	log   *lockedBuffer
	ca    *authority
	stop  func() // ends the context of all requests

	mu   sync.Mutex
	seen []*http.Request // by the API server, in order
}

type rigConfig struct {
	api  http.HandlerFunc
	kube func(*Config)
	// plainAPI is an API server without HTTP/2.
	plainAPI bool
}

func newFrontRig(t *testing.T, cfg rigConfig) *frontRig {
	t.Helper()
	r := &frontRig{t: t, log: &lockedBuffer{}, ca: newAuthority(t, "clients")}
	r.api = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		r.seen = append(r.seen, q.Clone(t.Context()))
		r.mu.Unlock()
		cfg.api(w, q)
	}))
	r.api.EnableHTTP2 = !cfg.plainAPI
	r.api.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	r.api.StartTLS()

	dir := t.TempDir()
	caFile, tokenFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	writeAuthority(t, caFile, r.api.Certificate())
	if err := os.WriteFile(tokenFile, []byte(relaysToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{
		APIServer: r.api.URL, CAFile: caFile, TokenFile: tokenFile, Impersonate: true,
		ClientCA: r.ca.pool, RequestHeaderCA: r.ca.pool, RequestHeaderNames: []string{"front-proxy"},
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if cfg.kube != nil {
		cfg.kube(&c)
	}
	var err error
	if r.kube, err = New(c); err != nil {
		t.Fatal(err)
	}
	r.front, _ = r.kube.Front(&dialerInTests{drain: make(chan struct{})}, kubectl.New(kubectl.Config{})).(*front)
	base, stop := context.WithCancel(t.Context())
	r.stop = stop
	r.relay = httptest.NewUnstartedServer(r.front)
	r.relay.Config.BaseContext = func(net.Listener) context.Context { return base }
	r.relay.EnableHTTP2 = true
	r.relay.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	r.relay.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13}
	r.relay.StartTLS()
	t.Cleanup(r.close)
	return r
}

func (r *frontRig) close() {
	r.stop()
	r.relay.CloseClientConnections()
	r.relay.Close()
	if err := r.kube.Close(); err != nil {
		r.t.Error(err)
	}
	r.api.CloseClientConnections()
	r.api.Close()
	for _, q := range r.requests("/") {
		if strings.Contains(q.Header.Get("Authorization"), relaysToken) && q.Header.Get("Impersonate-User") == "" {
			r.t.Errorf("%s %s went out with the relay's token alone", q.Method, q.URL)
		}
	}
	if log := r.log.String(); strings.Contains(log, relaysToken) || strings.Contains(log, janesToken) {
		r.t.Errorf("a token in the log:\n%s", log)
	}
}

// requests returns what the API server saw on paths that begin with prefix.
func (r *frontRig) requests(prefix string) []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.seen), func(q *http.Request) bool { return !strings.HasPrefix(q.URL.Path, prefix) })
}

// only returns the one request the API server saw.
func (r *frontRig) only() *http.Request {
	r.t.Helper()
	seen := r.requests("/")
	if len(seen) != 1 {
		r.t.Fatalf("the API server saw %d requests, want 1", len(seen))
	}
	return seen[0]
}

// dial opens a connection that speaks HTTP/1.1, with client certificates if any
// are given.
func (r *frontRig) dial(certs ...tls.Certificate) *rawClient {
	r.t.Helper()
	conn, err := tls.Dial("tcp", r.relay.Listener.Addr().String(), &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{protoHTTP1}, Certificates: certs,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patienceInTests))
	return &rawClient{t: r.t, Conn: conn, Reader: bufio.NewReader(conn)}
}

// rawClient writes requests as they are.
type rawClient struct {
	t *testing.T
	*tls.Conn
	*bufio.Reader
}

func (c *rawClient) Read(p []byte) (int, error) { return c.Reader.Read(p) }

// send writes lines with their ends, and an empty one.
func (c *rawClient) send(lines ...string) *rawClient {
	c.t.Helper()
	if _, err := c.Write([]byte(strings.Join(lines, "\r\n") + "\r\n\r\n")); err != nil {
		c.t.Fatal(err)
	}
	return c
}

// reply is an answer whose body somebody else closes.
type reply struct {
	StatusCode      int
	Status, Proto   string
	ProtoMajor      int
	Header, Trailer http.Header
	Close           bool
	Body            io.Reader
}

func replyOf(res *http.Response) *reply {
	return &reply{res.StatusCode, res.Status, res.Proto, res.ProtoMajor, res.Header, res.Trailer, res.Close, res.Body}
}

// response reads an answer.
func (c *rawClient) response() *reply {
	c.t.Helper()
	res, err := http.ReadResponse(c.Reader, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = res.Body.Close() })
	return replyOf(res)
}

// lockedBuffer is a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// lines returns those that hold what.
func (b *lockedBuffer) lines(what string) []string {
	return slices.DeleteFunc(strings.Split(b.String(), "\n"), func(line string) bool { return !strings.Contains(line, what) })
}

// clientPair makes the certificate of a client, with its key.
func clientPair(by *authority, name string, groups ...string) tls.Certificate {
	cert, key := by.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name, Organization: groups}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, by)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// echo serves one upgraded connection at the API server: it answers 101 with
// protocol and hands the connection to talk.
func echo(t *testing.T, protocol string, talk func(net.Conn, *bufio.ReadWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patienceInTests))
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n")
		_ = rw.Flush()
		talk(conn, rw)
	}
}

// dialerInTests is a relay that reaches no pod.
type dialerInTests struct {
	drain chan struct{}
	no    error // of the policy
}

func (d *dialerInTests) Permits(context.Context, relay.Identity, relay.Target, relay.Place) error {
	return d.no
}

func (d *dialerInTests) Dial(context.Context, relay.Call) (*relay.Link, error) {
	return nil, &stream.Error{Code: stream.AgentOffline}
}

func (d *dialerInTests) BeginSession(context.Context, relay.Identity) (func(), error) {
	return func() {}, nil
}

func (d *dialerInTests) BeginRequest(context.Context, string, string) (func(), error) {
	return func() {}, nil
}

func (d *dialerInTests) Reaches(string) error { return nil }

func (d *dialerInTests) Draining() <-chan struct{} { return d.drain }

func writeAuthority(t *testing.T, file string, cert *x509.Certificate) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
}
