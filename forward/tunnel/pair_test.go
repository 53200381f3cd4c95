package tunnel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testTLS returns what two ends of a test connection need.
func testTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"relay"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	server = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	client = &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "relay"}
	return server, client
}

// tcpPair returns the two ends of a TCP connection over loopback.
func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() { c, _ := l.Accept(); accepted <- c }()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b = <-accepted; b == nil {
		t.Fatal("accept failed")
	}
	return a, b
}

// carrierPair returns two carriers with TLS over loopback TCP.
func carrierPair(t testing.TB) (client, server *Carrier) {
	t.Helper()
	sc, cc := testTLS(t)
	a, b := tcpPair(t)
	type result struct {
		c   *Carrier
		err error
	}
	done := make(chan result, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go func() { c, err := HandshakeServer(ctx, b, sc); done <- result{c, err} }()
	client, err := HandshakeClient(ctx, a, cc)
	if err != nil {
		t.Fatal(err)
	}
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	return client, r.c
}

// sessions starts a session on each of two carriers and ends them with the test.
func sessions(t testing.TB, a, b *Carrier, cfg Config) (client, server *Session) {
	t.Helper()
	client, err := NewSession(a, true, cfg)
	if err != nil {
		t.Fatal(err)
	}
	server, err = NewSession(b, false, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// tlsSessions returns two sessions over TLS and loopback.
func tlsSessions(t testing.TB, cfg Config) (client, server *Session) {
	t.Helper()
	a, b := carrierPair(t)
	return sessions(t, a, b, cfg)
}

// streams opens a stream from client to server.
func streams(t testing.TB, client, server *Session) (a, b *Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	a, err := client.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b, err = server.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// plainSessions returns two sessions over loopback without TLS.
func plainSessions(t testing.TB, cfg Config) (client, server *Session) {
	t.Helper()
	a, b := tcpPair(t)
	return sessions(t, Plain(a), Plain(b), cfg)
}
