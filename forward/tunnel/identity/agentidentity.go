package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// CertStatus says what an agent should do about its certificate.
type CertStatus uint8

// States of a certificate.
const (
	CertNone    CertStatus = 0 // there is none: join
	CertFresh   CertStatus = 1 // use it
	CertDue     CertStatus = 2 // use it, and renew
	CertExpired CertStatus = 3 // it is worth nothing: join again, with the same key
)

// String returns "none", "fresh", "due", "expired" or "status-N".
func (s CertStatus) String() string {
	switch s {
	case CertNone:
		return "none"
	case CertFresh:
		return "fresh"
	case CertDue:
		return "due"
	case CertExpired:
		return "expired"
	}
	return fmt.Sprintf("status-%d", uint8(s))
}

// Node returns the node name the identity is for.
func (id *AgentIdentity) Node() string { return id.node }

// CSR returns a certificate signing request in DER for the node's name, for
// joining and for renewing. It is always for the one key of this identity: a
// renewal whose answer is lost then costs nothing, where a new key would be
// known to the relay and lost here.
func (id *AgentIdentity) CSR() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: id.node},
	}, id.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request for node %q: %w", id.node, err)
	}
	return der, nil
}

// Save checks a chain in DER, leaf first, as a relay issued it, makes it durable
// and then puts it in service. A chain for another key, name, role or authority,
// or one that is over already, is refused and changes nothing.
func (id *AgentIdentity) Save(chain [][]byte) error {
	cert, err := id.check(chain)
	if err != nil {
		return fmt.Errorf("save certificate of node %q: %w", id.node, err)
	}
	if now := id.now(); now.After(cert.Leaf.NotAfter) {
		return fmt.Errorf("save certificate of node %q: ended %s and it is %s here", id.node,
			cert.Leaf.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	var b bytes.Buffer
	for _, der := range chain {
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return fmt.Errorf("save certificate of node %q: %w", id.node, err)
		}
	}
	if b.Len() > maxStored {
		return fmt.Errorf("save certificate of node %q: chain of %d bytes, at most %d are allowed", id.node, b.Len(), maxStored)
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	if err := WriteFile(filepath.Join(id.dir, nodeCertFile), b.Bytes()); err != nil {
		return fmt.Errorf("save certificate of node %q: %w", id.node, err)
	}
	id.cert = cert
	return nil
}

// Discard removes the certificate, for when the relay does not know it any more
// (the node was forgotten). The key stays, and the node may join again with it.
func (id *AgentIdentity) Discard() error {
	id.mu.Lock()
	defer id.mu.Unlock()
	err := os.Remove(filepath.Join(id.dir, nodeCertFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("discard certificate of node %q: %w", id.node, err)
	}
	id.cert = nil
	return SyncDir(id.dir)
}

// Certificate returns the certificate to show, nil when there is none or it is
// over: a handshake with it would fail, where one without may still join. It
// fits ClientConfig.Certificate. The result must not be changed.
func (id *AgentIdentity) Certificate() *tls.Certificate {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.cert == nil || id.now().After(id.cert.Leaf.NotAfter) {
		return nil
	}
	return id.cert
}

// Status says what to do about the certificate now.
func (id *AgentIdentity) Status() CertStatus {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.cert == nil {
		return CertNone
	}
	now := id.now()
	switch {
	case now.After(id.cert.Leaf.NotAfter):
		return CertExpired
	case !now.Before(RenewAt(id.cert.Leaf)):
		return CertDue
	}
	return CertFresh
}

// RenewAt returns when the certificate becomes due, the zero time when there is
// none.
func (id *AgentIdentity) RenewAt() time.Time {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.cert == nil {
		return time.Time{}
	}
	return RenewAt(id.cert.Leaf)
}
