package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

type outcome struct {
	client, server error
	state          tls.ConnectionState // as the server sees it
}

// handshake runs both sides over loopback. In TLS 1.3 a client learns from its
// first read what the server thinks of its certificate, so one byte follows.
func handshake(t *testing.T, client, server *tls.Config) outcome {
	t.Helper()
	a, b := loopback(t)
	end := time.Now().Add(20 * time.Second)
	a.SetDeadline(end)
	b.SetDeadline(end)
	var o outcome
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		conn := tls.Server(b, server)
		if o.server = conn.Handshake(); o.server == nil {
			o.state = conn.ConnectionState()
			_, o.server = conn.Write([]byte{1})
		}
	}()
	conn := tls.Client(a, client)
	if o.client = conn.Handshake(); o.client == nil {
		_, o.client = conn.Read(make([]byte, 1))
	}
	a.Close()
	<-done
	return o
}

// loopback returns two ends of a TCP connection. A net.Pipe would not do: it
// holds no bytes, and an alert sent against a flight stands in its way.
func loopback(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		a.Close()
		t.Fatal(err)
	}
	return a, b
}

func clientTLS(t *testing.T, cfg ClientConfig) *tls.Config {
	t.Helper()
	if cfg.ALPN == "" {
		cfg.ALPN = stream.ALPNAgent
	}
	if cfg.ServerName == "" {
		cfg.ServerName = "relay.test"
	}
	if cfg.Now == nil {
		cfg.Now = (&clock{epoch}).now
	}
	tc, err := ClientTLS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tc
}

func serverTLS(t *testing.T, cert *tls.Certificate, agents, clients *pki) *tls.Config {
	t.Helper()
	cfg := ServerConfig{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil },
		Now:            (&clock{epoch}).now,
	}
	if agents != nil {
		cfg.AgentCAs = agents.pool
	}
	if clients != nil {
		cfg.ClientCAs = clients.pool
	}
	tc, err := ServerTLS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tc
}

type relayCase struct {
	name   string
	cfg    ClientConfig
	server *tls.Certificate
	want   string // part of the client's error, empty for success
}

func relayCases(t *testing.T) []relayCase {
	t.Helper()
	ca, other := newPKI(t, nil), newPKI(t, nil)
	expired := newPKI(t, func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Minute) })
	notCA := newPKI(t, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	good := ca.server("relay.test", "10.0.0.1", "::1")
	dir := t.TempDir()
	caFile := put(t, dir, "ca.crt", certsPEM(ca.cert.Raw))
	otherFile := put(t, dir, "other.crt", certsPEM(other.cert.Raw))
	over := ca.leaf(func(c *x509.Certificate) {
		c.DNSNames, c.NotAfter = []string{"relay.test"}, epoch.Add(-time.Second)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	alone := *good
	alone.Certificate = good.Certificate[:1]
	// A chain that shows the pinned authority but was signed by another one.
	borrowed := other.server("relay.test")
	borrowed.Certificate = append(borrowed.Certificate, ca.cert.Raw)
	long := *good
	for range maxChain {
		long.Certificate = append(long.Certificate, ca.cert.Raw)
	}
	return []relayCase{
		{"pin", ClientConfig{CAPin: ca.pin()}, good, ""},
		{"pin in upper case", ClientConfig{CAPin: "sha256:" + strings.ToUpper(ca.pin()[7:])}, good, ""},
		{"pin and ipv4", ClientConfig{CAPin: ca.pin(), ServerName: "10.0.0.1"}, good, ""},
		{"pin and ipv6", ClientConfig{CAPin: ca.pin(), ServerName: "::1"}, good, ""},
		{"ca file", ClientConfig{CAFile: caFile}, good, ""},
		{"ca file, chain without authority", ClientConfig{CAFile: caFile}, &alone, ""},
		{"pin, chain without authority", ClientConfig{CAPin: ca.pin()}, &alone, "no authority with the pin"},
		{"wrong pin", ClientConfig{CAPin: other.pin()}, good, "no authority with the pin"},
		{"pin of the leaf", ClientConfig{CAPin: PinOf(good.Leaf).String()}, good, "no authority with the pin"},
		{"pinned authority shown but did not sign", ClientConfig{CAPin: ca.pin()}, borrowed, "unknown authority"},
		{"wrong ca file", ClientConfig{CAFile: otherFile}, good, "unknown authority"},
		{"system roots", ClientConfig{SystemRoots: true}, good, "certificate"},
		{"wrong name by pin", ClientConfig{CAPin: ca.pin(), ServerName: "other.test"}, good, "not other.test"},
		{"wrong name by file", ClientConfig{CAFile: caFile, ServerName: "other.test"}, good, "not other.test"},
		{"wrong address", ClientConfig{CAPin: ca.pin(), ServerName: "10.0.0.2"}, good, "not 10.0.0.2"},
		{"certificate over", ClientConfig{CAPin: ca.pin()}, over, "expired"},
		{"authority over", ClientConfig{CAPin: expired.pin()}, expired.server("relay.test"), "expired"},
		{"pinned key is no authority", ClientConfig{CAPin: notCA.pin()}, notCA.server("relay.test"), "no authority with the pin"},
		{"node certificate as server", ClientConfig{CAPin: ca.pin()}, ca.leaf(func(c *x509.Certificate) {
			asPeer("relay.test", OrgNodes)(c)
			c.DNSNames = []string{"relay.test"}
		}), "incompatible key usage"},
		{"endless chain", ClientConfig{CAPin: ca.pin()}, &long, "at most 16"},
	}
}

func TestClientVerifiesRelay(t *testing.T) {
	for _, c := range relayCases(t) {
		t.Run(c.name, func(t *testing.T) {
			o := handshake(t, clientTLS(t, c.cfg), serverTLS(t, c.server, nil, nil))
			if c.want == "" {
				if o.client != nil || o.server != nil {
					t.Fatalf("client: %v, server: %v", o.client, o.server)
				}
				return
			}
			var verr *tls.CertificateVerificationError
			if !errors.As(o.client, &verr) || !strings.Contains(o.client.Error(), c.want) {
				t.Fatalf("client: %v, want a verification error with %q", o.client, c.want)
			}
			if o.server == nil {
				t.Fatal("server saw no error")
			}
		})
	}
}

func TestServerVerifiesPeer(t *testing.T) {
	agents, clients, stranger := newPKI(t, nil), newPKI(t, nil), newPKI(t, nil)
	relay := agents.server("relay.test")
	node, user := agents.peer("node-1", OrgNodes), clients.peer("alice", "dev", "ops")
	over := agents.leaf(func(c *x509.Certificate) {
		asPeer("node-1", OrgNodes)(c)
		c.NotAfter = epoch.Add(-time.Second)
	})
	cases := []struct {
		name            string
		agents, clients *pki
		alpn            string
		cert            *tls.Certificate
		want, wantShown string
	}{
		{"node", agents, clients, stream.ALPNAgent, node, "", "node-1"},
		{"user", agents, clients, stream.ALPNClient, user, "", "alice"},
		{"agent without certificate", agents, clients, stream.ALPNAgent, nil, "", ""},
		{"client without certificate", agents, clients, stream.ALPNClient, nil, "", ""},
		{"no authority, none asked for", nil, nil, stream.ALPNAgent, node, "", ""},
		{"one authority, node", agents, agents, stream.ALPNAgent, node, "", "node-1"},
		{"one authority, node as client", agents, agents, stream.ALPNClient, node, "another role", ""},
		{"one authority, user as node", clients, clients, stream.ALPNAgent, user, "another role", ""},
		{"node as client", agents, clients, stream.ALPNClient, node, "unknown authority", ""},
		{"user as node", agents, clients, stream.ALPNAgent, user, "unknown authority", ""},
		{"stranger as node", agents, clients, stream.ALPNAgent, stranger.peer("node-1", OrgNodes), "unknown authority", ""},
		{"node certificate over", agents, clients, stream.ALPNAgent, over, "expired", ""},
		{"node with a bad name", agents, clients, stream.ALPNAgent, agents.peer("../node", OrgNodes), "node name", ""},
		{"user with a reserved name", agents, clients, stream.ALPNClient, clients.peer(UserToken), "is reserved", ""},
		{"user without a name", agents, clients, stream.ALPNClient, clients.peer("", "dev"), "is empty", ""},
		{"serving certificate as node", agents, clients, stream.ALPNAgent, agents.leaf(func(c *x509.Certificate) {
			asPeer("node-1", OrgNodes)(c)
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), "incompatible key usage", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := ClientConfig{CAPin: agents.pin(), ALPN: c.alpn, Certificate: func() *tls.Certificate { return c.cert }}
			o := handshake(t, clientTLS(t, cfg), serverTLS(t, relay, c.agents, c.clients))
			if c.want != "" {
				if o.server == nil || !strings.Contains(o.server.Error(), c.want) {
					t.Fatalf("server: %v, want an error with %q", o.server, c.want)
				}
				if o.client == nil {
					t.Fatal("client saw no error")
				}
				return
			}
			if o.client != nil || o.server != nil {
				t.Fatalf("client: %v, server: %v", o.client, o.server)
			}
			shown := ""
			if len(o.state.PeerCertificates) > 0 {
				shown = o.state.PeerCertificates[0].Subject.CommonName
			}
			if shown != c.wantShown || o.state.NegotiatedProtocol != c.alpn {
				t.Fatalf("certificate of %q over %q", shown, o.state.NegotiatedProtocol)
			}
		})
	}
}

func TestServerRefusesOtherProtocols(t *testing.T) {
	ca := newPKI(t, nil)
	server := serverTLS(t, ca.server("relay.test"), ca, ca)
	cases := []struct {
		name   string
		change func(*tls.Config)
		want   string
	}{
		{"none", func(c *tls.Config) { c.NextProtos = nil }, "no application protocol"},
		{"http", func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }, "unsupported application protocols"},
		{"both", func(c *tls.Config) { c.NextProtos = []string{stream.ALPNAgent, stream.ALPNClient} }, "at once"},
		{"next version", func(c *tls.Config) { c.NextProtos = []string{"culvert-agent/2"} }, "unsupported application protocols"},
		{"tls 1.2", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, "unsupported versions"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			client := clientTLS(t, ClientConfig{CAPin: ca.pin()})
			c.change(client)
			o := handshake(t, client, server)
			if o.server == nil || !strings.Contains(o.server.Error(), c.want) || o.client == nil {
				t.Fatalf("client: %v, server: %v, want %q", o.client, o.server, c.want)
			}
		})
	}
	client := clientTLS(t, ClientConfig{CAPin: ca.pin()})
	client.NextProtos = append(client.NextProtos, "h2")
	if o := handshake(t, client, server); o.client != nil || o.state.NegotiatedProtocol != stream.ALPNAgent {
		t.Fatalf("one of ours among others: %v", o.client)
	}
}

func TestClientRefusesRelayWithoutProtocol(t *testing.T) {
	ca := newPKI(t, nil)
	server := &tls.Config{Certificates: []tls.Certificate{*ca.server("relay.test")}, Time: (&clock{epoch}).now}
	o := handshake(t, clientTLS(t, ClientConfig{CAPin: ca.pin()}), server)
	if o.client == nil || !strings.Contains(o.client.Error(), "does not speak") {
		t.Fatalf("client: %v", o.client)
	}
}

// A session must look at certificates each time: nothing is resumed, even by a
// client that would.
func TestNoResumption(t *testing.T) {
	ca := newPKI(t, nil)
	server := serverTLS(t, ca.server("relay.test"), ca, ca)
	client := clientTLS(t, ClientConfig{CAPin: ca.pin()})
	client.SessionTicketsDisabled = false
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 2 {
		o := handshake(t, client, server)
		if o.client != nil || o.state.DidResume {
			t.Fatalf("client: %v, resumed: %v", o.client, o.state.DidResume)
		}
	}
	if _, ok := client.ClientSessionCache.Get("relay.test"); ok {
		t.Fatal("relay handed out a ticket")
	}
}

func TestClientTLSConfig(t *testing.T) {
	ca := newPKI(t, nil)
	dir := t.TempDir()
	caFile := put(t, dir, "ca.crt", certsPEM(ca.cert.Raw))
	full := func() ClientConfig {
		return ClientConfig{ServerName: "relay.test", ALPN: stream.ALPNClient, CAPin: ca.pin()}
	}
	cases := []struct {
		name   string
		change func(*ClientConfig)
	}{
		{"no server name", func(c *ClientConfig) { c.ServerName = "" }},
		{"no protocol", func(c *ClientConfig) { c.ALPN = "" }},
		{"no way to verify", func(c *ClientConfig) { c.CAPin = "" }},
		{"pin and file", func(c *ClientConfig) { c.CAFile = caFile }},
		{"pin and system", func(c *ClientConfig) { c.SystemRoots = true }},
		{"bad pin", func(c *ClientConfig) { c.CAPin = "sha256:00" }},
		{"missing ca file", func(c *ClientConfig) { c.CAPin, c.CAFile = "", dir+"/none" }},
		{"key without certificate", func(c *ClientConfig) { c.KeyFile = caFile }},
		{"certificate without key", func(c *ClientConfig) { c.CertFile = caFile }},
		{"pair without key", func(c *ClientConfig) { c.CertFile, c.KeyFile = caFile, caFile }},
		{"pair and function", func(c *ClientConfig) {
			c.CertFile, c.KeyFile = caFile, caFile
			c.Certificate = func() *tls.Certificate { return nil }
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := full()
			c.change(&cfg)
			if _, err := ClientTLS(cfg); err == nil {
				t.Fatal("accepted")
			}
		})
	}
	tc, err := ClientTLS(full())
	if err != nil {
		t.Fatal(err)
	}
	if tc.MinVersion != tls.VersionTLS13 || !tc.DynamicRecordSizingDisabled || !tc.SessionTicketsDisabled {
		t.Fatalf("config is not as promised: %+v", tc)
	}
	if _, err := ServerTLS(ServerConfig{}); err == nil {
		t.Fatal("server without a certificate accepted")
	}
}
