package identity

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
)

const pinPrefix = "sha256:"

// Pin is the SHA-256 of a certificate's SubjectPublicKeyInfo. It names a key,
// not a certificate: an authority that re-issues its own certificate keeps it.
type Pin [sha256.Size]byte

// ParsePin reads "sha256:" and 64 hexadecimal digits of either case.
func ParsePin(s string) (Pin, error) {
	var p Pin
	digits, found := strings.CutPrefix(s, pinPrefix)
	if !found {
		return p, fmt.Errorf("parse pin: %q is missing before the digits", pinPrefix)
	}
	if len(digits) != hex.EncodedLen(len(p)) {
		return p, fmt.Errorf("parse pin: %d characters after %s, want %d hexadecimal digits", len(digits), pinPrefix, hex.EncodedLen(len(p)))
	}
	if _, err := hex.Decode(p[:], []byte(digits)); err != nil {
		return Pin{}, fmt.Errorf("parse pin: %w", err)
	}
	return p, nil
}

// PinOf returns the pin of the certificate's key.
func PinOf(cert *x509.Certificate) Pin { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// PinOfKey returns the pin of a public key as crypto/x509 knows it.
func PinOfKey(public any) (Pin, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return Pin{}, fmt.Errorf("compute pin of public key: %w", err)
	}
	return sha256.Sum256(der), nil
}

// String returns the form that ParsePin reads, in lower case.
func (p Pin) String() string { return pinPrefix + hex.EncodeToString(p[:]) }

// Matches reports whether the certificate holds the pinned key.
func (p Pin) Matches(cert *x509.Certificate) bool {
	got := PinOf(cert)
	return subtle.ConstantTimeCompare(p[:], got[:]) == 1
}

// roots trusts the authorities in the chain that hold the pinned key.
func (p Pin) roots(chain []*x509.Certificate) (*x509.CertPool, error) {
	pool, found := x509.NewCertPool(), false
	for _, cert := range chain {
		if p.Matches(cert) && isCA(cert) {
			pool.AddCert(cert)
			found = true
		}
	}
	if !found {
		return nil, fmt.Errorf("no authority with the pin %s among %d certificates", p, len(chain))
	}
	return pool, nil
}

// signed checks that the pinned authority, which must be in the chain, vouches
// for the leaf as a certificate for clients. The time is not checked.
func (p Pin) signed(chain []*x509.Certificate) error {
	return verifyChain(chain, x509.VerifyOptions{
		CurrentTime: chain[0].NotBefore,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, p.roots)
}
