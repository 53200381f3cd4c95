package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// ServerConfig says how a relay answers handshakes. GetCertificate must be set.
type ServerConfig struct {
	// GetCertificate returns the relay's certificate, asked at each handshake.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// AgentCAs returns the authorities of nodes, ClientCAs those of users; asked
	// at each handshake. Nil, or the answer nil, means that this side proves
	// itself without a certificate: none is asked for, none is looked at.
	AgentCAs, ClientCAs func() *x509.CertPool
	// HTTP lets in connections that ask for h2, for http/1.1 or for no protocol.
	HTTP bool
	// HTTPClientCAs returns the authorities of certificates that such a connection
	// may show; asked at each handshake. Whose they are, a user's or a front
	// proxy's, is for the HTTP handler to find out. Nil, or the answer nil: none is
	// asked for.
	HTTPClientCAs func() *x509.CertPool
	// Now is the clock for the validity of certificates. Nil means time.Now.
	Now func() time.Time
}

// The protocols of HTTP as ALPN names them.
const (
	alpnHTTP2 = "h2"
	alpnHTTP1 = "http/1.1"
)

// ServerTLS returns the TLS of a relay: TLS 1.3 only, no resumption. The
// application protocol decides the rest: a connection that asks for
// stream.ALPNAgent may show a node certificate of AgentCAs, one that asks for
// stream.ALPNClient a user certificate of ClientCAs. A certificate that does not
// verify or is for the other role ends the handshake, and so does a connection
// that asks for neither protocol, or for both.
//
// A connection without a certificate passes: who it is is then the question of
// the Hello that follows.
//
// With HTTP, a connection that asks for neither protocol but for one of HTTP, or for
// none at all, passes too; it may show a certificate of HTTPClientCAs, of any name.
func ServerTLS(cfg ServerConfig) (*tls.Config, error) {
	if cfg.GetCertificate == nil {
		return nil, errors.New("server tls: no certificate")
	}
	base := tls.Config{
		MinVersion:                  tls.VersionTLS13,
		GetCertificate:              cfg.GetCertificate,
		Time:                        cfg.Now,
		SessionTicketsDisabled:      true, // a resumed session would skip the look at certificates and records
		DynamicRecordSizingDisabled: true, // sessions are long and carry bulk: full records from the first byte
	}
	// What is offered to a connection that asks for neither protocol: it gets the
	// proper alert because nothing matches.
	refuse := base.Clone()
	refuse.NextProtos = []string{stream.ALPNAgent, stream.ALPNClient}

	tc := refuse.Clone()
	tc.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		agent := slices.Contains(hello.SupportedProtos, stream.ALPNAgent)
		client := slices.Contains(hello.SupportedProtos, stream.ALPNClient)
		switch {
		case agent && client:
			return nil, errors.New("peer asks for the protocols of agents and of clients at once")
		case agent:
			return forRole(&base, stream.ALPNAgent, RoleNode, cfg.AgentCAs), nil
		case client:
			return forRole(&base, stream.ALPNClient, RoleUser, cfg.ClientCAs), nil
		case cfg.HTTP && wantsHTTP(hello.SupportedProtos):
			return forHTTP(&base, cfg.HTTPClientCAs), nil
		case len(hello.SupportedProtos) == 0:
			return nil, errors.New("peer asks for no application protocol")
		}
		return refuse, nil
	}
	return tc, nil
}

func wantsHTTP(protos []string) bool {
	return len(protos) == 0 || slices.Contains(protos, alpnHTTP2) || slices.Contains(protos, alpnHTTP1)
}

func forHTTP(base *tls.Config, cas func() *x509.CertPool) *tls.Config {
	tc := base.Clone()
	tc.NextProtos = []string{alpnHTTP2, alpnHTTP1}
	ask(tc, cas)
	return tc
}

// ask has a certificate asked for and verified, if there is an authority for it.
// Without one none may be asked for: to crypto/tls a nil pool means the authorities
// of the whole world.
func ask(tc *tls.Config, cas func() *x509.CertPool) (asked bool) {
	var pool *x509.CertPool
	if cas != nil {
		pool = cas()
	}
	if pool == nil {
		tc.ClientAuth = tls.NoClientCert
		return false
	}
	tc.ClientAuth = tls.VerifyClientCertIfGiven
	tc.ClientCAs = pool
	return true
}

func forRole(base *tls.Config, alpn string, role Role, cas func() *x509.CertPool) *tls.Config {
	tc := base.Clone()
	tc.NextProtos = []string{alpn}
	if !ask(tc, cas) {
		return tc
	}
	tc.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return nil
		}
		if _, err := NameOf(cs.PeerCertificates[0], role); err != nil {
			return fmt.Errorf("refuse certificate for %s: %w", alpn, err)
		}
		return nil
	}
	return tc
}
