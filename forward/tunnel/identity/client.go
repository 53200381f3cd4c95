package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// maxChain bounds the certificates a relay may present: each of them costs
// parsing and signature checks before anything is known about the peer.
const maxChain = 16

// ClientConfig says how an agent or a client dials a relay. ServerName, ALPN and
// exactly one of CAFile, CAData, CAPin and SystemRoots must be set.
type ClientConfig struct {
	// ServerName is the host name or IP literal that the relay's certificate must
	// carry, without a port.
	ServerName string
	// ALPN is stream.ALPNAgent or stream.ALPNClient. A relay that does not answer
	// with it is refused.
	ALPN string
	// CAFile is a PEM file of authorities, read again when it changes.
	CAFile string
	// CAData are authorities in PEM, for who has them from elsewhere than a file.
	CAData []byte
	// CAPin is the pin of the relay's authority (see ParsePin). The authority
	// must be in the chain that the relay presents.
	CAPin string
	// SystemRoots trusts every authority that this machine trusts. It suits a
	// relay with a public certificate and no other.
	SystemRoots bool
	// CertFile and KeyFile are the caller's certificate chain and key in PEM,
	// read again when they change. Empty means none; one alone is an error.
	CertFile, KeyFile string
	// Certificate is asked at each handshake in place of the two files. Nil, or
	// the answer nil, means no certificate.
	Certificate func() *tls.Certificate
	// Now is the clock for the validity of certificates. Nil means time.Now.
	Now func() time.Time
	// Report is told what is wrong with files that changed while they are in
	// use; the last good contents stay in service. Nil drops it.
	Report func(error)
}

// ClientTLS returns the TLS of the dialling side: TLS 1.3 only, no resumption,
// and the relay's certificate verified in the way the config says, host name
// included. The result may be used for any number of connections at once.
func ClientTLS(cfg ClientConfig) (*tls.Config, error) {
	if cfg.ServerName == "" {
		return nil, errors.New("client tls: no server name")
	}
	if cfg.ALPN == "" {
		return nil, errors.New("client tls: no application protocol")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	trust, err := cfg.trust()
	if err != nil {
		return nil, fmt.Errorf("client tls: %w", err)
	}
	own, err := cfg.own()
	if err != nil {
		return nil, fmt.Errorf("client tls: %w", err)
	}
	tc := &tls.Config{
		ServerName: cfg.ServerName,
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{cfg.ALPN},
		Time:       cfg.Now,
		// crypto/tls cannot verify by a pin, nor by a pool that changes. What it
		// would do is done in VerifyConnection, which it calls on every
		// connection and cannot skip.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != cfg.ALPN {
				return fmt.Errorf("relay does not speak %s", cfg.ALPN)
			}
			return verifyServer(cs.PeerCertificates, cfg.ServerName, cfg.Now(), trust)
		},
		SessionTicketsDisabled:      true, // a resumed session would skip the look at certificates and records
		DynamicRecordSizingDisabled: true, // sessions are long and carry bulk: full records from the first byte
	}
	if own != nil {
		tc.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert := own(); cert != nil {
				return cert, nil
			}
			return new(tls.Certificate), nil
		}
	}
	return tc, nil
}

// roots picks the authorities to trust for one presented chain.
type roots func(chain []*x509.Certificate) (*x509.CertPool, error)

func (cfg *ClientConfig) trust() (roots, error) {
	ways := 0
	for _, set := range []bool{cfg.CAFile != "", len(cfg.CAData) > 0, cfg.CAPin != "", cfg.SystemRoots} {
		if set {
			ways++
		}
	}
	if ways != 1 {
		return nil, errors.New("want exactly one of a CA file, a CA pin and the system roots to verify the relay by")
	}
	switch {
	case cfg.CAPin != "":
		pin, err := ParsePin(cfg.CAPin)
		if err != nil {
			return nil, err
		}
		return pin.roots, nil
	case cfg.CAFile != "":
		cas, err := LoadCAs(cfg.CAFile, cfg.watch())
		if err != nil {
			return nil, err
		}
		return func([]*x509.Certificate) (*x509.CertPool, error) { return cas.Pool(), nil }, nil
	case len(cfg.CAData) > 0:
		certs, err := parseCAs(cfg.CAData)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		for _, c := range certs {
			pool.AddCert(c)
		}
		return func([]*x509.Certificate) (*x509.CertPool, error) { return pool, nil }, nil
	}
	// A nil pool means the system's to crypto/x509.
	return func([]*x509.Certificate) (*x509.CertPool, error) { return nil, nil }, nil
}

// own returns the caller's certificate, nil when it has none.
func (cfg *ClientConfig) own() (func() *tls.Certificate, error) {
	files := cfg.CertFile != "" || cfg.KeyFile != ""
	switch {
	case files && cfg.Certificate != nil:
		return nil, errors.New("certificate given both as files and as a function")
	case !files:
		return cfg.Certificate, nil
	case cfg.CertFile == "" || cfg.KeyFile == "":
		return nil, errors.New("certificate and key go together: one of the two files is missing")
	}
	pair, err := LoadKeyPair(cfg.CertFile, cfg.KeyFile, cfg.watch())
	if err != nil {
		return nil, err
	}
	return pair.Certificate, nil
}

func (cfg *ClientConfig) watch() WatchConfig {
	return WatchConfig{Now: cfg.Now, Report: cfg.Report}
}

func verifyServer(chain []*x509.Certificate, name string, now time.Time, trust roots) error {
	err := verifyChain(chain, x509.VerifyOptions{
		DNSName:     name,
		CurrentTime: now,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, trust)
	if err == nil {
		return nil
	}
	return &tls.CertificateVerificationError{UnverifiedCertificates: chain, Err: err}
}

// verifyChain completes opts with what trust makes of the chain and verifies the
// leaf, chain[0], by it.
func verifyChain(chain []*x509.Certificate, opts x509.VerifyOptions, trust roots) error {
	if len(chain) == 0 {
		return errors.New("no certificate presented")
	}
	if len(chain) > maxChain {
		return fmt.Errorf("%d certificates presented, at most %d are allowed", len(chain), maxChain)
	}
	pool, err := trust(chain)
	if err != nil {
		return err
	}
	opts.Roots = pool
	opts.Intermediates = x509.NewCertPool()
	for _, cert := range chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err = chain[0].Verify(opts)
	return err
}
