package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
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
	// RenewAt is when Renew should be called. Zero: never.
	RenewAt time.Time
	// Renew renews what the tunnel made with this credential shows, asking over
	// that same tunnel, and returns when to call it again: a relay that takes it
	// keeps the tunnel beyond the end of the old credential. Zero with no error:
	// never; zero with an error: when the caller likes. ctx bounds it. It is not
	// called twice at once. nil with a zero RenewAt only.
	Renew func(ctx context.Context, registry controlv1.RegistryClient) (time.Time, error)
	// Refused hears that the relay did not take this credential. nil: there is
	// nobody to tell.
	Refused func()
}

// Identity is how an agent proves its name. It may be used for several relays, and
// for several addresses of one, at once.
type Identity interface {
	// For returns the credential for a relay, which is host:port as the agent was
	// given it, whichever address of that name is dialled. It may get the
	// credential first, at the relay itself, over connections that dial makes; ctx
	// bounds that.
	For(ctx context.Context, relay string, dial func(Credential) *connect.Dialer) (Credential, error)
}

// Trust says how a relay proves itself: exactly one of the two is set.
type Trust struct {
	CAFile string // authorities in PEM; read for each tunnel, and may come late
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

// For returns the certificate. It is never renewed: whoever made it makes the next
// one, and the next tunnel shows that. If it is refused, they have to act too.
func (c *Certificate) For(_ context.Context, relay string, _ func(Credential) *connect.Dialer) (Credential, error) {
	tc, err := clientTLS(relay, c.Trust, identity.ClientConfig{CertFile: c.CertFile, KeyFile: c.KeyFile, Report: c.Report})
	return Credential{TLS: tc}, err
}

// clientTLS completes cfg for a relay (host:port).
func clientTLS(relay string, trust Trust, cfg identity.ClientConfig) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(relay)
	if err != nil {
		return nil, fmt.Errorf("relay address %q: %w", relay, err)
	}
	cfg.ServerName, cfg.ALPN = host, stream.ALPNAgent
	cfg.CAFile, cfg.CAPin = trust.CAFile, trust.CAPin
	tc, err := identity.ClientTLS(cfg)
	if err != nil && trust.empty() {
		return nil, fmt.Errorf("%w: waiting until the relay's authority is written there", err)
	}
	return tc, err
}

// empty tells whether the file of authorities is not there yet or has nothing in
// it, as a volume that is filled while the agent runs.
func (t *Trust) empty() bool {
	if t.CAFile == "" {
		return false
	}
	info, err := os.Stat(t.CAFile)
	return errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0
}
