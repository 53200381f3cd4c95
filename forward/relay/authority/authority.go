// Package authority is how a relay makes its certificates, wherever they are
// kept: an authority of its own, the serving certificates it signs, and the form
// in which both are written down. It reads and writes no files and asks nobody.
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

const day = 24 * time.Hour

const (
	// Life is how long an authority is good.
	Life = 3650 * day
	// ServingLife is how long a serving certificate is good.
	ServingLife = 365 * day
	// Notice is how long before its end an authority should be complained about:
	// to replace it is work for people.
	Notice = 180 * day
	// backdate is for peers whose clock is behind: a new authority and the relay
	// must not be the ones in the future.
	backdate = time.Hour

	// namePrefix begins the name of every authority made here.
	namePrefix = "culvert relay authority "
)

// Authority signs the relay's own certificate and those of nodes.
type Authority struct {
	Pair
}

// New returns a new authority: ECDSA P-256, good for Life from now.
func New(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// A name of its own, so that people who handle two relays can tell them apart.
		Subject:               pkix.Name{CommonName: namePrefix + hex.EncodeToString(serial.Bytes()[:4])},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(Life),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs no further authorities
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	return &Authority{Pair{Cert: cert, Key: key}}, nil
}

// Load returns the authority that p is, and an error that says why if it cannot
// sign at now.
func Load(p Pair, now time.Time) (*Authority, error) {
	switch cert := p.Cert; {
	case !IsAuthority(cert):
		return nil, errors.New("its certificate is not that of an authority")
	case now.After(cert.NotAfter):
		return nil, fmt.Errorf("it ended %s", cert.NotAfter.Format(time.RFC3339))
	case now.Before(cert.NotBefore):
		return nil, fmt.Errorf("it begins %s and the clock says %s (correct the clock)", cert.NotBefore.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return &Authority{p}, nil
}

// IsAuthority reports whether cert may sign certificates.
func IsAuthority(cert *x509.Certificate) bool {
	return cert.BasicConstraintsValid && cert.IsCA && cert.KeyUsage&x509.KeyUsageCertSign != 0
}

// IsOwn reports whether cert has the name of an authority that New made. It
// proves nothing: it keeps a relay from taking for its own what somebody else
// put where its certificates belong.
func IsOwn(cert *x509.Certificate) bool {
	return strings.HasPrefix(cert.Subject.CommonName, namePrefix)
}

// Made returns when New made cert.
func Made(cert *x509.Certificate) time.Time { return cert.NotBefore.Add(backdate) }

// Pin returns what agents and clients verify the relay by.
func (a *Authority) Pin() identity.Pin { return identity.PinOf(a.Cert) }

// Sign issues a certificate from a template in which the subject, the uses and
// the dates are set. Nothing outlives the authority.
func (a *Authority) Sign(template *x509.Certificate, public any) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	if template.NotAfter.After(a.Cert.NotAfter) {
		template.NotAfter = a.Cert.NotAfter
	}
	if !template.NotAfter.After(template.NotBefore) {
		return nil, fmt.Errorf("sign certificate: the authority ended %s", a.Cert.NotAfter.Format(time.RFC3339))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, public, a.Key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// Serving makes a key and a certificate for a server that is reached under hosts,
// which are in the form that Hosts returns. It is good for ServingLife from now
// and should be replaced at RenewAt.
func (a *Authority) Serving(hosts []string, now time.Time) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make serving certificate: %w", err)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "culvert relay"},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(ServingLife),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	cert, err := a.Sign(template, key.Public())
	if err != nil {
		return Pair{}, err
	}
	return Pair{Cert: cert, Key: key}, nil
}

// RenewAt returns when a certificate should be replaced: after two thirds of its
// life.
func RenewAt(cert *x509.Certificate) time.Time { return identity.RenewAt(cert) }

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
