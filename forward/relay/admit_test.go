package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// house is a whole relay behind its front door, on loopback and with TLS.
type house struct {
	*authority
	t    testing.TB
	s    *Server
	addr string
	log  *lines
	stop context.CancelFunc
	done chan struct{} // Serve has returned
}

func newHouse(t testing.TB, cfg Config) *house {
	t.Helper()
	h := &house{authority: newAuthority(t), t: t, log: &lines{}, done: make(chan struct{})}
	cfg.TLS = h.serve(cfg.HTTP != nil)
	if cfg.Auth == nil {
		cfg.Auth = credentials()
	}
	if cfg.SettleTime == 0 {
		cfg.SettleTime = -1
	}
	if cfg.ReturnTime == 0 {
		cfg.ReturnTime = -1
	}
	cfg.Log = slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if h.s, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	go func() {
		defer close(h.done)
		if err := h.s.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { stop(); <-h.done })
	return h
}

// come makes a session as a peer would.
func (h *house) come(alpn string, hello *stream.Hello, certs ...tls.Certificate) (*tunnel.Session, error) {
	d := &connect.Dialer{TLS: h.dial(alpn, certs...), ALPN: alpn}
	if hello != nil {
		d.Hello = func() (*stream.Hello, error) { return hello, nil }
	}
	sess, err := d.Dial(within(h.t), h.addr)
	if err == nil {
		h.t.Cleanup(func() { _ = sess.Close() })
	}
	return sess, err
}

func (h *house) raw() net.Conn {
	h.t.Helper()
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestWhoIsLetIn(t *testing.T) {
	h := newHouse(t, Config{})
	node, user := h.person("node-a", identity.OrgNodes), h.person("bob", "devs")
	stranger := newAuthority(t).person("node-a", identity.OrgNodes)
	for name, tc := range map[string]struct {
		alpn  string
		hello *stream.Hello
		certs []tls.Certificate
		code  stream.Code // OK: let in; -1 means that TLS ends
		tls   bool
	}{
		"node":                         {alpn: stream.ALPNAgent, certs: []tls.Certificate{node}},
		"user":                         {alpn: stream.ALPNClient, certs: []tls.Certificate{user}},
		"client token":                 {alpn: stream.ALPNClient, hello: hello(stream.CredentialToken, "client")},
		"join token":                   {alpn: stream.ALPNAgent, hello: hello(stream.CredentialJoin, "join")},
		"nobody as an agent":           {alpn: stream.ALPNAgent, code: stream.Unauthenticated},
		"nobody as a client":           {alpn: stream.ALPNClient, code: stream.Unauthenticated},
		"wrong client token":           {alpn: stream.ALPNClient, hello: hello(stream.CredentialToken, "join"), code: stream.Unauthenticated},
		"wrong join token":             {alpn: stream.ALPNAgent, hello: hello(stream.CredentialJoin, "client"), code: stream.Unauthenticated},
		"client token as an agent":     {alpn: stream.ALPNAgent, hello: hello(stream.CredentialToken, "client"), code: stream.Unauthenticated},
		"join token as a client":       {alpn: stream.ALPNClient, hello: hello(stream.CredentialJoin, "join"), code: stream.Unauthenticated},
		"wrong token beside good cert": {alpn: stream.ALPNAgent, hello: hello(stream.CredentialJoin, "x"), certs: []tls.Certificate{node}, code: stream.Unauthenticated},
		"node as a client":             {alpn: stream.ALPNClient, certs: []tls.Certificate{node}, tls: true},
		"user as an agent":             {alpn: stream.ALPNAgent, certs: []tls.Certificate{user}, tls: true},
		"another authority":            {alpn: stream.ALPNAgent, certs: []tls.Certificate{stranger}, tls: true},
		"another protocol":             {alpn: "h2", certs: []tls.Certificate{node}, tls: true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.come(tc.alpn, tc.hello, tc.certs...)
			switch coded := (*stream.Error)(nil); {
			case tc.tls && (err == nil || errors.As(err, &coded)):
				t.Errorf("%v, want an end in TLS", err)
			case !tc.tls && stream.CodeOf(err) != tc.code:
				t.Errorf("%v, want %s", err, tc.code)
			}
		})
	}
	eventually(t, "nobody is at the door", func() bool { return h.s.door.len() == 0 })
}

// Whatever comes instead of a peer is hung up on and costs no session.
func TestStrangersAtTheDoor(t *testing.T) {
	h := newHouse(t, Config{HandshakeTimeout: 300 * time.Millisecond})
	shake := func(t *testing.T, c net.Conn, protos ...string) *tls.Conn {
		tc := h.dial("")
		tc.NextProtos = protos
		conn := tls.Client(c, tc)
		if err := conn.HandshakeContext(within(t)); err != nil {
			t.Log(err)
		}
		return conn
	}
	say := func(t *testing.T, c net.Conn, text string) io.Reader {
		x := shake(t, c, stream.ALPNClient)
		_, _ = x.Write([]byte(text)) // too late on a slow machine
		return x
	}
	for name, act := range map[string]func(*testing.T, net.Conn) io.Reader{
		"silence": func(_ *testing.T, c net.Conn) io.Reader { return c },
		"plain http": func(t *testing.T, c net.Conn) io.Reader {
			write(t, c, []byte("GET / HTTP/1.1\r\nHost: relay\r\n\r\n"))
			return c
		},
		"half a record": func(t *testing.T, c net.Conn) io.Reader { write(t, c, []byte{22, 3, 1, 2, 0, 1}); return c },
		"no alpn":       func(t *testing.T, c net.Conn) io.Reader { return shake(t, c) },
		"both alpn":     func(t *testing.T, c net.Conn) io.Reader { return shake(t, c, stream.ALPNAgent, stream.ALPNClient) },
		"no hello":      func(t *testing.T, c net.Conn) io.Reader { return say(t, c, "") },
		"half a hello":  func(t *testing.T, c net.Conn) io.Reader { return say(t, c, "\x01") },
		"http in tls":   func(t *testing.T, c net.Conn) io.Reader { return say(t, c, "GET / HTTP/1.1\r\n\r\n") },
		"a huge token":  func(t *testing.T, c net.Conn) io.Reader { return say(t, c, "\x01\x01\xff\xff") },
	} {
		t.Run(name, func(t *testing.T) {
			c := h.raw()
			_ = c.SetDeadline(time.Now().Add(patience))
			b, err := io.ReadAll(act(t, c))
			if err != nil && errors.Is(err, context.DeadlineExceeded) || len(b) > 200 {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	eventually(t, "nobody is at the door", func() bool { return h.s.door.len() == 0 })
	if n := h.s.sessions.Load(); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// Those who hold connections open and say nothing keep nobody out, not even
// for the time of a handshake.
func TestSlowLorisKeepsNobodyOut(t *testing.T) {
	h := newHouse(t, Config{MaxHandshakes: 4, HandshakeTimeout: time.Hour})
	for range 20 {
		h.raw()
	}
	for range 5 {
		if _, err := h.come(stream.ALPNClient, hello(stream.CredentialToken, "client")); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.s.door.len(); n > 4 {
		t.Errorf("%d at the door", n)
	}
}

func TestDoor(t *testing.T) {
	d := door{limit: 2}
	conn := func() net.Conn { a, b := net.Pipe(); _ = b.Close(); return a }
	one, two := d.enter(conn()), d.enter(conn())
	three := d.enter(conn())
	if one == nil || two == nil || three == nil || !one.pushed || two.pushed || d.len() != 2 {
		t.Fatal("the longest silent does not make room")
	}
	if d.heard(one) || !d.heard(two) || !d.heard(two) || !d.heard(three) {
		t.Error("heard")
	}
	if d.enter(conn()) != nil {
		t.Error("those who have shown a credential are pushed out")
	}
	if !d.leave(one) || d.leave(two) || d.len() != 1 {
		t.Errorf("%d inside", d.len())
	}
	if four := d.enter(conn()); four == nil || d.leave(four) || d.leave(three) || d.len() != 0 || d.silent.Len() != 0 {
		t.Errorf("%d inside", d.len())
	}
}

func TestSessionsAreLimited(t *testing.T) {
	h := newHouse(t, Config{MaxSessions: 4})
	for i := range 4 {
		_, err := h.come(stream.ALPNClient, hello(stream.CredentialToken, "client"))
		if want := i == 3; (stream.CodeOf(err) == stream.Overloaded) != want {
			t.Errorf("client %d: %v", i, err)
		}
	}
	node := h.person("node-a", identity.OrgNodes)
	for i := range 2 {
		sess, err := h.come(stream.ALPNAgent, nil, node)
		if want := i == 1; (stream.CodeOf(err) == stream.Overloaded) != want {
			t.Errorf("agent %d: %v", i, err)
		}
		if i == 0 {
			defer sess.Close()
		}
	}
}

// faulty is an Authenticator that fails as a disk does.
type faulty struct{}

func (faulty) Authenticate(context.Context, tls.ConnectionState, *stream.Hello) (Identity, error) {
	return Identity{}, fmt.Errorf("open /secret/path: input/output error")
}

func TestFaultsAreNotToldToPeers(t *testing.T) {
	h := newHouse(t, Config{Auth: faulty{}})
	_, err := h.come(stream.ALPNClient, hello(stream.CredentialToken, "client"))
	if stream.CodeOf(err) != stream.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
	eventually(t, "it is logged", func() bool {
		l := h.log.all(t, "connection refused")
		return len(l) == 1 && strings.Contains(fmt.Sprint(l[0]["err"]), "/secret/path")
	})
}

// However many are refused, the log stays short.
func TestRefusalsDoNotFloodTheLog(t *testing.T) {
	h := newHouse(t, Config{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 30 {
				_, _ = h.come(stream.ALPNClient, hello(stream.CredentialToken, "wrong"))
			}
		})
	}
	all.Wait()
	if n := len(h.log.all(t, "connection refused")); n > 60 {
		t.Errorf("%d lines for 120 connections", n)
	}
	eventually(t, "all are counted", func() bool {
		var sb strings.Builder
		h.s.WriteMetrics(&sb)
		return strings.Contains(sb.String(), `culvert_relay_refused_total{reason="unauthenticated"} 120`)
	})
}

func TestCredentialsAreJudgedAgain(t *testing.T) {
	a := newAuthority(t)
	node, user := a.person("node-a", identity.OrgNodes).Leaf, a.person("bob").Leaf
	forgotten := false
	good := map[string]bool{"join": true, "client": true}
	now := time.Now()
	c := credentials()
	c.Now = func() time.Time { return now }
	judgeNode := c.Node
	c.Node = func(cert *x509.Certificate) (string, error) {
		if forgotten {
			return "", &stream.Error{Code: stream.Unauthenticated}
		}
		return judgeNode(cert)
	}
	c.JoinToken = func(s string) bool { return good[s] }
	c.ClientToken = c.JoinToken
	all := map[string]Identity{
		"node":   {Role: RoleNode, Name: "node-a", Cert: node},
		"user":   {Role: RoleUser, Name: "bob", Cert: user},
		"token":  {Role: RoleUser, Name: identity.UserToken, Proof: token{"client"}},
		"joiner": {Role: RoleJoiner, Name: "joiner", Proof: token{"join"}},
	}
	check := func(when string, refused ...string) {
		t.Helper()
		for name, who := range all {
			err := c.Revalidate(t.Context(), who)
			want := strings.Contains(strings.Join(refused, " "), name)
			if (stream.CodeOf(err) == stream.Unauthenticated) != want || !want && err != nil {
				t.Errorf("%s, %s: %v", when, name, err)
			}
		}
	}
	check("at first")
	forgotten = true
	check("node forgotten", "node")
	delete(good, "client")
	check("token replaced", "node", "token")
	delete(good, "join")
	forgotten = false
	check("both replaced", "token", "joiner")
	now = now.Add(2 * time.Hour)
	check("after the certificates ended", "node", "user", "token", "joiner")
	if s := fmt.Sprintf("%v %+v %#v", all["token"], all["token"], all["token"]); strings.Contains(s, `"client"`) || strings.Contains(s, "{client}") {
		t.Errorf("a token is printed: %s", s)
	}
}
