package authority

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// Pair is a certificate and the key it is for.
type Pair struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// NewPair returns the pair of cert and key if they belong together.
func NewPair(cert *x509.Certificate, key *ecdsa.PrivateKey) (Pair, error) {
	if !key.PublicKey.Equal(cert.PublicKey) {
		return Pair{}, errors.New("its key does not belong to its certificate")
	}
	return Pair{Cert: cert, Key: key}, nil
}

// TLS returns the pair as a server shows it: with the certificate of its
// authority, so that a peer can verify it by the pin alone. The result must not
// be changed.
func (p Pair) TLS(issuer *x509.Certificate) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{p.Cert.Raw, issuer.Raw}, PrivateKey: p.Key, Leaf: p.Cert}
}

// EncodeKey returns the key of the pair as PEM (PKCS#8).
func (p Pair) EncodeKey() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// EncodeCerts returns certificates as PEM, one after the other.
func EncodeCerts(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, cert := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return b.Bytes()
}

// ParseKey reads the key that b begins with: ECDSA, PKCS#8 in PEM, as EncodeKey
// writes it. rest is what follows.
func ParseKey(b []byte) (key *ecdsa.PrivateKey, rest []byte, err error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, nil, errors.New("it does not begin with a private key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("its key is a %T, want an ECDSA key", parsed)
	}
	return key, rest, nil
}

// ParseCerts reads certificates in PEM and nothing else, at least one and at most
// limit of them.
func ParseCerts(b []byte, limit int) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	begun := bytes.Count(b, []byte("-----BEGIN "))
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a %q, want certificates only", block.Type)
		}
		if len(certs) == limit {
			return nil, fmt.Errorf("it holds more than %d certificates", limit)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs, b = append(certs, cert), rest
	}
	switch {
	case begun == 0:
		return nil, errors.New("it holds no certificate")
	case len(certs) != begun: // encoding/pem skips what it cannot read
		return nil, errors.New("a certificate in it is damaged")
	}
	return certs, nil
}
