package standalone

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	nodeLife     = 90 * 24 * time.Hour
	nodeBackdate = 5 * time.Minute // for nodes whose clock is behind the relay's
)

// IssueNode issues a certificate for the node a joining agent names in its
// request (PKCS#10, DER, at most 8 KiB). The caller has checked the join token.
// The name and the key are all that is taken from the request. A new name is
// recorded, durably, before the certificate exists; a known name with the key it
// had is issued again; with another key the error carries stream.NameTaken. A
// request that is not in order carries stream.Malformed, a full relay
// stream.Overloaded.
//
// chain is in DER, leaf first, the authority last. The certificate is good for
// 90 days and should be renewed at renewAt.
func (s *State) IssueNode(csrDER []byte) (chain [][]byte, renewAt time.Time, err error) {
	req, err := parseCSR(csrDER)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("issue node certificate: %w", err)
	}
	if err := s.claim(req); err != nil {
		return nil, time.Time{}, fmt.Errorf("issue certificate of node %q: %w", req.name, err)
	}
	return s.issueNode(req)
}

// RenewNode issues the next certificate of the node that peer, the verified
// certificate of the session that asks, belongs to. The request must name the
// same node; a new key in it takes the place of the old one, durably, before the
// certificate exists, and the certificates of the old key are worth nothing from
// then on. It takes the certificate and not only the name, so that a session
// from before `forget` cannot take the name back.
func (s *State) RenewNode(peer *x509.Certificate, csrDER []byte) (chain [][]byte, renewAt time.Time, err error) {
	name, err := s.VerifyNode(peer)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("renew node certificate: %w", err)
	}
	req, err := parseCSR(csrDER)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("renew certificate of node %q: %w", name, err)
	}
	if req.name != name {
		return nil, time.Time{}, fmt.Errorf("renew certificate of node %q: request names node %q: %w", name, req.name,
			&stream.Error{Code: stream.Forbidden, Text: fmt.Sprintf("node %q may not ask for a certificate of another node", name)})
	}
	if err := s.rekey(req, identity.PinOf(peer)); err != nil {
		return nil, time.Time{}, fmt.Errorf("renew certificate of node %q: %w", name, err)
	}
	return s.issueNode(req)
}

func (s *State) issueNode(req *request) ([][]byte, time.Time, error) {
	now := s.now()
	cert, err := s.ca.Sign(&x509.Certificate{
		Subject:     pkix.Name{Organization: []string{identity.OrgNodes}, CommonName: req.name},
		NotBefore:   now.Add(-nodeBackdate),
		NotAfter:    now.Add(nodeLife),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, req.public)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("issue certificate of node %q: %w", req.name, err)
	}
	return [][]byte{cert.Raw, s.ca.Cert.Raw}, identity.RenewAt(cert), nil
}

// VerifyNode returns the node a certificate stands for: issued by this relay,
// for a node, not over, and for the key that the node's record holds now. It
// reads the record each time, so a forgotten node is refused at once; a relay
// asks it again for sessions that live on. Refusals carry
// stream.Unauthenticated.
func (s *State) VerifyNode(cert *x509.Certificate) (name string, err error) {
	if s.closed.Load() {
		return "", errClosed
	}
	name, err = identity.NameOf(cert, identity.RoleNode)
	if err != nil {
		return "", unauthenticated(err)
	}
	_, err = cert.Verify(x509.VerifyOptions{
		Roots:       s.CAPool(),
		CurrentTime: s.now(),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return "", unauthenticated(fmt.Errorf("verify certificate of node %q: %w", name, err))
	}
	rec, err := s.readRecord(name)
	if errors.Is(err, errUnknown) {
		return "", unauthenticated(fmt.Errorf("node %q is not known here; it may join anew", name))
	}
	if err != nil {
		return "", fmt.Errorf("verify node %q: %w", name, err)
	}
	if !rec.key.Matches(cert) {
		return "", unauthenticated(fmt.Errorf("node %q has another key now", name))
	}
	return name, nil
}

// unauthenticated gives err a code to cross the wire with.
func unauthenticated(err error) error {
	return fmt.Errorf("%w: %w", &stream.Error{Code: stream.Unauthenticated, Text: "node certificate refused"}, err)
}

// claim records the name for the key, or finds that it is.
func (s *State) claim(req *request) error {
	return s.change(func() error {
		rec, err := s.readRecord(req.name)
		if err == nil {
			if rec.key == req.pin {
				// Whoever wrote it may have died before its name was safe.
				return identity.SyncDir(filepath.Join(s.dir, nodesDir))
			}
			return &stream.Error{Code: stream.NameTaken, Text: fmt.Sprintf(
				"node name %q belongs to another key; if the node lost its key, run: culvert-relay forget %s", req.name, req.name)}
		}
		if !errors.Is(err, errUnknown) {
			return err
		}
		if err := s.room(); err != nil {
			return err
		}
		if err := s.writeRecord(req.name, record{key: req.pin, joined: s.now()}); err != nil {
			return err
		}
		s.nodes.count++
		return nil
	})
}

// rekey records the key of req for a node whose key is old until now.
func (s *State) rekey(req *request, old identity.Pin) error {
	return s.change(func() error {
		rec, err := s.readRecord(req.name)
		if err != nil && !errors.Is(err, errUnknown) {
			return err
		}
		if err != nil || rec.key != old {
			return &stream.Error{Code: stream.Unauthenticated, Text: fmt.Sprintf("node %q was forgotten or has another key now", req.name)}
		}
		if req.pin == old {
			return nil
		}
		rec.key = req.pin
		return s.writeRecord(req.name, rec)
	})
}

// room refuses one node too many. The count does not know what another process
// forgot, so it is taken again before a refusal.
func (s *State) room() error {
	if s.nodes.count < s.maxNodes {
		return nil
	}
	names, err := s.nodeNames()
	if err != nil {
		return err
	}
	s.nodes.count = len(names)
	if s.nodes.count < s.maxNodes {
		return nil
	}
	return &stream.Error{Code: stream.Overloaded, Text: fmt.Sprintf("this relay knows %d nodes, its limit", s.nodes.count)}
}
