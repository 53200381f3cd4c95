package standalone

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

const (
	day          = 24 * time.Hour
	caLife       = 3650 * day
	servingLife  = 365 * day
	nodeLife     = 90 * day
	nodeBackdate = 5 * time.Minute // for nodes whose clock is behind the relay's
	caNotice     = 180 * day
	caBackdate   = time.Hour // the authority and the relay must not be the ones in the future
)

// authority signs the relay's own certificate and those of nodes.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority returns a new authority and its file.
func newAuthority(now time.Time) (*authority, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	// A name of its own, so that people who handle two relays can tell them apart.
	name := "culvert relay authority " + hex.EncodeToString(serial.Bytes()[:4])
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-caBackdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs no further authorities
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("make authority: %w", err)
	}
	b, err := bundlePEM(key, der)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return &authority{cert: cert, key: key}, b, nil
}

// parseAuthority reads what newAuthority wrote and checks that it can still sign.
func parseAuthority(b []byte, now time.Time) (*authority, error) {
	cert, key, err := parseBundle(b)
	if err != nil {
		return nil, err
	}
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("its certificate is not that of an authority")
	case now.After(cert.NotAfter):
		return nil, fmt.Errorf("it ended %s", cert.NotAfter.Format(time.RFC3339))
	case now.Before(cert.NotBefore):
		return nil, fmt.Errorf("it begins %s and the clock says %s (correct the clock)", cert.NotBefore.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return &authority{cert: cert, key: key}, nil
}

// sign issues a certificate from a template in which the subject, the uses and
// the dates are set. Nothing outlives the authority.
func (a *authority) sign(template *x509.Certificate, public any) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	if !template.NotAfter.After(template.NotBefore) {
		return nil, fmt.Errorf("sign certificate: the authority ended %s", a.cert.NotAfter.Format(time.RFC3339))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// newSerial returns 128 random bits, of which the first is set: the number has
// one length and is never zero.
func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	b[0] |= 0x80
	return new(big.Int).SetBytes(b), nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// bundlePEM is the form of ca.pem and serving.pem: the key, then the certificate.
func bundlePEM(key *ecdsa.PrivateKey, cert []byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), certPEM(cert)...), nil
}

func parseBundle(b []byte) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	first, rest := pem.Decode(b)
	if first == nil || first.Type != "PRIVATE KEY" {
		return nil, nil, errors.New("it does not begin with a private key")
	}
	second, _ := pem.Decode(rest)
	if second == nil || second.Type != "CERTIFICATE" {
		return nil, nil, errors.New("it holds no certificate after the key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(first.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("its key is a %T, want an ECDSA key", parsed)
	}
	cert, err := x509.ParseCertificate(second.Bytes)
	if err != nil {
		return nil, nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, errors.New("its key does not belong to its certificate")
	}
	return cert, key, nil
}
