package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// authority signs what a test needs.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	pair := a.issue(tmpl)
	a.cert, a.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

// issue signs a certificate for a new key; without an authority it signs
// itself.
func (a *authority) issue(tmpl *x509.Certificate) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	tmpl.NotBefore = time.Now().Add(-time.Hour)
	if tmpl.NotAfter.IsZero() {
		tmpl.NotAfter = time.Now().Add(time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// person issues a client certificate.
func (a *authority) person(name string, orgs ...string) tls.Certificate {
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name, Organization: orgs}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func selfSigned(t testing.TB, name string) *x509.Certificate {
	return (&authority{t: t}).person(name, identity.OrgNodes).Leaf
}

// dial is the TLS of who comes to the relay.
func (a *authority) dial(alpn string, certs ...tls.Certificate) *tls.Config {
	tc := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: a.pool, ServerName: "relay", Certificates: certs}
	if alpn != "" {
		tc.NextProtos = []string{alpn}
	}
	return tc
}

// serve is the TLS of the relay, for nodes and users of this authority.
func (a *authority) serve(http bool) *tls.Config {
	a.t.Helper()
	own := a.issue(&x509.Certificate{DNSNames: []string{"relay"}})
	pool := func() *x509.CertPool { return a.pool }
	tc, err := identity.ServerTLS(identity.ServerConfig{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &own, nil },
		AgentCAs:       pool, ClientCAs: pool, HTTP: http, HTTPClientCAs: pool,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return tc
}

// credentials takes nodes and users of certificates, and the tokens "join" and
// "client".
func credentials() *Credentials {
	return &Credentials{
		Node:        func(c *x509.Certificate) (string, error) { return identity.NameOf(c, identity.RoleNode) },
		User:        identity.PeerOf,
		JoinToken:   func(s string) bool { return s == "join" },
		ClientToken: func(s string) bool { return s == "client" },
	}
}

func hello(kind stream.CredentialKind, token string) *stream.Hello {
	return &stream.Hello{Credential: kind, Token: token}
}
