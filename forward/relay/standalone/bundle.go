package standalone

import (
	"fmt"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/authority"
)

const maxBundled = 16 // only the first certificate counts

// bundle is the form of ca.pem and serving.pem: the key, then the certificate.
func bundle(p authority.Pair) ([]byte, error) {
	key, err := p.EncodeKey()
	if err != nil {
		return nil, err
	}
	return append(key, authority.EncodeCerts(p.Cert)...), nil
}

func parseBundle(b []byte) (authority.Pair, error) {
	key, rest, err := authority.ParseKey(b)
	if err != nil {
		return authority.Pair{}, err
	}
	certs, err := authority.ParseCerts(rest, maxBundled)
	if err != nil {
		return authority.Pair{}, fmt.Errorf("after the key: %w", err)
	}
	return authority.NewPair(certs[0], key)
}

func parseAuthority(b []byte, now time.Time) (*authority.Authority, error) {
	p, err := parseBundle(b)
	if err != nil {
		return nil, err
	}
	return authority.Load(p, now)
}
