package standalone

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/culvert-k8s/culvert/forward/relay/authority"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

// ServingCertificate returns the relay's own certificate: leaf and authority, so
// that a peer can verify it by the pin alone. It is replaced here when two thirds
// of its life are over, and when that life has not begun: it was made while the
// clock was ahead, and nobody would take it. The result must not be changed.
func (s *State) ServingCertificate() (*tls.Certificate, error) {
	s.serving.Lock()
	defer s.serving.Unlock()
	old := s.serving.cert
	if now := s.now(); old != nil && !now.Before(old.Leaf.NotBefore) && now.Before(identity.RenewAt(old.Leaf)) {
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
	pool.AddCert(s.ca.Cert)
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
	var pair authority.Pair
	if err == nil {
		pair, err = parseBundle(b)
	}
	if err != nil {
		s.report(fmt.Errorf("serving certificate %s cannot be used and is replaced: %w", path, err))
		return
	}
	if pair.Cert.CheckSignatureFrom(s.ca.Cert) != nil || !slices.Equal(authority.HostsOf(pair.Cert), s.advertise) {
		return
	}
	s.serving.cert = pair.TLS(s.ca.Cert)
}

// issueServing makes a certificate and keeps it. One that cannot be kept is as
// good until the relay restarts.
func (s *State) issueServing() (*tls.Certificate, error) {
	pair, err := s.ca.Serving(s.advertise, s.now())
	if err != nil {
		return nil, err
	}
	b, err := bundle(pair)
	if err != nil {
		return nil, err
	}
	if err := identity.WriteFile(filepath.Join(s.dir, servingFile), b); err != nil {
		s.report(fmt.Errorf("keep serving certificate: %w", err))
	}
	return pair.TLS(s.ca.Cert), nil
}
