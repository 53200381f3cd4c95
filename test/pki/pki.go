// Package pki makes the certificates of tests that run real programs.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"time"
)

// Authority signs certificates. It may be made of a pair that somebody else has.
type Authority struct{ tls.Certificate }

// New makes an authority that nobody knows yet, for a day.
func New(name string) (*Authority, error) {
	own, err := new(Authority).Sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	if err != nil {
		return nil, err
	}
	return &Authority{own}, nil
}

// Pool returns a pool with the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Leaf)
	return pool
}

// Server makes the certificate of a server with these names and addresses.
func (a *Authority) Server(names []string, addrs ...net.IP) (tls.Certificate, error) {
	return a.Sign(&x509.Certificate{
		DNSNames: names, IPAddresses: addrs,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// Person makes the certificate of a node or a user.
func (a *Authority) Person(name, organization string) (tls.Certificate, error) {
	return a.Sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{organization}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Sign makes a certificate of c and a new key. What c leaves open is a serial number,
// the time, from an hour ago until tomorrow, and the use of the key: signatures. An
// authority without a certificate has the key sign itself.
func (a *Authority) Sign(c *x509.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	c.SerialNumber = big.NewInt(now.UnixNano())
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = now.Add(-time.Hour), now.Add(24*time.Hour)
	}
	if c.KeyUsage == 0 {
		c.KeyUsage = x509.KeyUsageDigitalSignature
	}
	parent, signer := a.Leaf, a.PrivateKey
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// Write writes a chain and its key, each in its file, and puts both in their places at
// once, as nearly as that can be done.
func Write(certFile, keyFile string, c tls.Certificate) error {
	var chain []byte
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return err
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return errors.Join(
		os.WriteFile(certFile+".new", chain, 0o600), os.WriteFile(keyFile+".new", secret, 0o600),
		os.Rename(certFile+".new", certFile), os.Rename(keyFile+".new", keyFile),
	)
}
