//go:build linux

package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// lifetime of all certificates; no cluster of the tests gets that old.
const lifetime = 30 * 24 * time.Hour

// keyPair is a certificate and its key, as PEM and in files.
type keyPair struct {
	cert, key         []byte
	certFile, keyFile string
}

// authority signs certificates and keeps them in a directory.
type authority struct {
	keyPair
	dir    string
	parent *x509.Certificate
	signer crypto.Signer
}

// newAuthority makes a CA of that name, in files of that name.
func newAuthority(dir, name string) (*authority, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", name, err)
	}
	a := &authority{dir: dir, parent: template, signer: signer}
	a.keyPair, err = a.sign(name, template, signer)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", name, err)
	}
	block, _ := pem.Decode(a.cert)
	if a.parent, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("make CA %s: %w", name, err)
	}
	return a, nil
}

// client makes a certificate for a user with groups, in files named file.
func (a *authority) client(file, user string, groups ...string) (keyPair, error) {
	return a.issue(file, &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// server makes a serving certificate for names and addresses.
func (a *authority) server(file, name string, names []string, addrs ...netip.Addr) (keyPair, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: names,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, addr := range addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
	}
	return a.issue(file, template)
}

func (a *authority) issue(file string, template *x509.Certificate) (keyPair, error) {
	template.KeyUsage = x509.KeyUsageDigitalSignature
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, fmt.Errorf("make certificate %s: %w", file, err)
	}
	pair, err := a.sign(file, template, key)
	if err != nil {
		return keyPair{}, fmt.Errorf("make certificate %s: %w", file, err)
	}
	return pair, nil
}

func (a *authority) sign(file string, template *x509.Certificate, key *ecdsa.PrivateKey) (keyPair, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return keyPair{}, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Minute)
	template.NotAfter = time.Now().Add(lifetime)
	der, err := x509.CreateCertificate(rand.Reader, template, a.parent, key.Public(), a.signer)
	if err != nil {
		return keyPair{}, err
	}
	pair := keyPair{
		cert:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		certFile: filepath.Join(a.dir, file+".crt"),
		keyFile:  filepath.Join(a.dir, file+".key"),
	}
	if pair.key, err = encodeKey(key); err != nil {
		return keyPair{}, err
	}
	return pair, errors.Join(
		os.WriteFile(pair.certFile, pair.cert, 0o600), os.WriteFile(pair.keyFile, pair.key, 0o600))
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// writeSigningKey makes the key that service account tokens are signed with.
func writeSigningKey(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make signing key: %w", err)
	}
	text, err := encodeKey(key)
	if err != nil {
		return fmt.Errorf("make signing key: %w", err)
	}
	return os.WriteFile(file, text, 0o600)
}
