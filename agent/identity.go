package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Credential is what an agent shows one relay.
type Credential struct {
	// TLS proves the relay, and holds the agent's certificate if it has one.
	TLS *tls.Config
	// Hello returns a credential sent after TLS. nil: the certificate is it.
	Hello func() (*stream.Hello, error)
	// RenewAt is when Identity.Renew should be called. Zero: never.
	RenewAt time.Time
}

// Identity is how an agent proves its name. It may be used for several relays at
// once.
type Identity interface {
	// For returns the credential for a relay. It may get it first, at the relay
	// itself, over connections that dial makes; ctx bounds that.
	For(ctx context.Context, relay string, dial func(Credential) *connect.Dialer) (Credential, error)
	// Renew renews what a tunnel shows to a relay, asking over that same tunnel,
	// and returns the next RenewAt: a relay that takes it keeps the tunnel beyond
	// the end of the old credential. ctx bounds it.
	Renew(ctx context.Context, relay string, registry controlv1.RegistryClient) (time.Time, error)
	// Refused hears that the relay did not take the credential.
	Refused(relay string)
}

// Trust says how a relay proves itself: exactly one of the two is set.
type Trust struct {
	CAFile string // authorities in PEM
	CAPin  string // sha256:<hex> of the authority's key
}

// Certificate is the Identity of an agent with a certificate of its own, from
// an authority that the relays trust. The files are read again when they change.
type Certificate struct {
	Trust             Trust
	CertFile, KeyFile string
	Report            func(error) // hears of files that became unreadable; may be nil
}

var _ Identity = (*Certificate)(nil)

// For returns the certificate.
func (c *Certificate) For(_ context.Context, relay string, _ func(Credential) *connect.Dialer) (Credential, error) {
	tc, err := clientTLS(relay, c.Trust, identity.ClientConfig{CertFile: c.CertFile, KeyFile: c.KeyFile, Report: c.Report})
	return Credential{TLS: tc}, err
}

// Renew is never called: whoever made the certificate makes the next one, and the
// next tunnel shows it.
func (c *Certificate) Renew(context.Context, string, controlv1.RegistryClient) (time.Time, error) {
	return time.Time{}, nil
}

// Refused does nothing: whoever made the certificate has to act.
func (c *Certificate) Refused(string) {}

// clientTLS completes cfg for a relay (host:port).
func clientTLS(relay string, trust Trust, cfg identity.ClientConfig) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(relay)
	if err != nil {
		return nil, fmt.Errorf("relay address %q: %w", relay, err)
	}
	cfg.ServerName, cfg.ALPN = host, stream.ALPNAgent
	cfg.CAFile, cfg.CAPin = trust.CAFile, trust.CAPin
	return identity.ClientTLS(cfg)
}
