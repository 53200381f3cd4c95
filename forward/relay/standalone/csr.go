package standalone

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	maxCSR     = 8 << 10
	minRSABits = 2048
	maxRSABits = 8192
)

// request is all that is taken over from a certificate request.
type request struct {
	name   string
	public any
	pin    identity.Pin
}

// parseCSR reads a request from a peer of which nothing is known but a token.
// The error carries stream.Malformed.
func parseCSR(der []byte) (*request, error) {
	req, err := readCSR(der)
	if err != nil {
		text := "certificate request: " + err.Error()
		return nil, &stream.Error{Code: stream.Malformed, Text: text}
	}
	return req, nil
}

func readCSR(der []byte) (*request, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(der), maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	// The key before the signature: checking one made with a huge key is work
	// that the peer would have us do.
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	if err := oneCommonName(csr); err != nil {
		return nil, err
	}
	name := csr.Subject.CommonName
	if err := identity.CheckNodeName(name); err != nil {
		return nil, err
	}
	pin, err := identity.PinOfKey(csr.PublicKey)
	if err != nil {
		return nil, err
	}
	return &request{name: name, public: csr.PublicKey, pin: pin}, nil
}

func checkKey(public any) error {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return errors.New("ECDSA key is on another curve than P-256 and P-384")
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < minRSABits || n > maxRSABits {
			return fmt.Errorf("RSA key of %d bits, want %d to %d", n, minRSABits, maxRSABits)
		}
	default:
		return fmt.Errorf("key of type %T, want ECDSA, Ed25519 or RSA", public)
	}
	return nil
}

// oneCommonName refuses a subject that leaves open which of its names is meant.
func oneCommonName(csr *x509.CertificateRequest) error {
	n := 0
	for _, attr := range csr.Subject.Names {
		if attr.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 3}) {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("%d common names, want one", n)
	}
	return nil
}
