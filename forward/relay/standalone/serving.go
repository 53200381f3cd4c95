package standalone

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

// ServingCertificate returns the relay's own certificate: leaf and authority, so
// that a peer can verify it by the pin alone. It is replaced here when two thirds
// of its life are over. The result must not be changed.
func (s *State) ServingCertificate() (*tls.Certificate, error) {
	s.serving.Lock()
	defer s.serving.Unlock()
	old := s.serving.cert
	if old != nil && s.now().Before(identity.RenewAt(old.Leaf)) {
		return old, nil
	}
	cert, err := s.issueServing()
	switch {
	case err == nil:
		s.serving.cert = cert
		return cert, nil
	case old != nil:
		// An authority near its own end: what there is serves as long as it can.
		return old, nil
	}
	return nil, fmt.Errorf("serving certificate: %w", err)
}

// GetCertificate has the shape of tls.Config.GetCertificate.
func (s *State) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.ServingCertificate()
}

// CAPool returns a new pool with the relay's authority: whom node certificates
// must come from.
func (s *State) CAPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.cert)
	return pool
}

// loadServing takes the certificate on disk if it still says what it should.
// Anything else is replaced: nobody pins this key, so nothing is lost with it.
func (s *State) loadServing() {
	path := filepath.Join(s.dir, servingFile)
	b, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var cert *x509.Certificate
	var key *ecdsa.PrivateKey
	if err == nil {
		cert, key, err = parseBundle(b)
	}
	if err != nil {
		s.report(fmt.Errorf("serving certificate %s cannot be used and is replaced: %w", path, err))
		return
	}
	if cert.CheckSignatureFrom(s.ca.cert) != nil || !slices.Equal(sans(cert), s.advertise) {
		return
	}
	s.serving.cert = s.chain(cert, key)
}

func (s *State) chain(cert *x509.Certificate, key *ecdsa.PrivateKey) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{cert.Raw, s.ca.cert.Raw}, PrivateKey: key, Leaf: cert}
}

// issueServing makes a certificate and keeps it. One that cannot be kept is as
// good until the relay restarts.
func (s *State) issueServing() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := s.now()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "culvert relay"},
		NotBefore:   now.Add(-caBackdate),
		NotAfter:    now.Add(servingLife),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range s.advertise {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	cert, err := s.ca.sign(template, key.Public())
	if err != nil {
		return nil, err
	}
	b, err := bundlePEM(key, cert.Raw)
	if err != nil {
		return nil, err
	}
	if err := identity.WriteFile(filepath.Join(s.dir, servingFile), b); err != nil {
		s.report(fmt.Errorf("keep serving certificate: %w", err))
	}
	return s.chain(cert, key), nil
}

// sans returns the names of a certificate in the order of State.advertise.
func sans(cert *x509.Certificate) []string {
	all := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		all = append(all, ip.String())
	}
	slices.Sort(all)
	return all
}
