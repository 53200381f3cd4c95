//go:build linux

package replicas

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pki is an authority that all relays, agents and clients trust, in a directory.
type pki struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newPKI(t *testing.T, dir string) *pki {
	t.Helper()
	p := &pki{t: t, dir: dir, key: newKey(t)}
	p.cert = p.sign("ca", p.key, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return p
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes a certificate and writes it, and its key, to name.pem and name.key.
func (p *pki) sign(name string, key *ecdsa.PrivateKey, c *x509.Certificate) *x509.Certificate {
	p.t.Helper()
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent := p.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(name+".pem", "CERTIFICATE", der)
	p.write(name+".key", "PRIVATE KEY", secret)
	made, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return made
}

func (p *pki) write(name, kind string, der []byte) {
	p.t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(p.file(name), text, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

// server makes the certificate of all relays.
func (p *pki) server(names []string, addrs []netip.Addr) {
	c := &x509.Certificate{DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	for _, a := range addrs {
		c.IPAddresses = append(c.IPAddresses, net.IP(a.AsSlice()))
	}
	p.sign("relay", newKey(p.t), c)
}

// person makes the certificate of a node or a user.
func (p *pki) person(name, organization string) {
	p.sign(name, newKey(p.t), &x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{organization}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	})
}
