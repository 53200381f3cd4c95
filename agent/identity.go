package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
}

// Identity is how an agent proves its name.
type Identity interface {
	// For returns the credential for a relay. It may ask the relay for one
	// first, over connections that dial makes.
	For(ctx context.Context, relay string, dial func(Credential) *connect.Dialer) (Credential, error)
	// Refused hears that the relay did not take the credential.
	Refused(relay string)
}

// Trust says how a relay proves itself: exactly one of the two is set.
type Trust struct {
	CAFile string // authorities in PEM
	CAPin  string // sha256:<hex> of the authority's key
}

// Certificate is the Identity of an agent with a certificate of its own, from
// an authority that the relays trust.
type Certificate struct {
	Trust             Trust
	CertFile, KeyFile string
	Report            func(error) // hears of files that became unreadable; may be nil
}

var _ Identity = (*Certificate)(nil)

// For returns the certificate.
func (c *Certificate) For(_ context.Context, relay string, _ func(Credential) *connect.Dialer) (Credential, error) {
	cfg := identity.ClientConfig{CAFile: c.Trust.CAFile, CAPin: c.Trust.CAPin, CertFile: c.CertFile, KeyFile: c.KeyFile, Report: c.Report}
	tc, err := clientTLS(cfg, relay)
	return Credential{TLS: tc}, err
}

// Refused does nothing: whoever made the certificate has to act.
func (c *Certificate) Refused(string) {}

// Joined is the Identity of an agent that buys its certificate from the relay
// with a join token, and renews it there. Store and Trust must be set.
type Joined struct {
	Node  string
	Store *identity.AgentStore
	Trust Trust
	// Token returns the join token. It is asked only when there is no
	// certificate.
	Token  func() (string, error)
	Report func(error) // hears of files that became unreadable; may be nil

	mu sync.Mutex // one purchase at a time
}

var _ Identity = (*Joined)(nil)

// For returns the certificate for a relay, after buying or renewing it if need
// be.
func (j *Joined) For(ctx context.Context, relay string, dial func(Credential) *connect.Dialer) (Credential, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	id, err := j.open(relay)
	if err != nil {
		return Credential{}, err
	}
	cred := Credential{}
	cred.TLS, err = clientTLS(identity.ClientConfig{CAFile: j.Trust.CAFile, CAPin: j.Trust.CAPin, Certificate: id.Certificate, Report: j.Report}, relay)
	if err != nil {
		return Credential{}, err
	}
	switch id.Status() {
	case identity.CertNone, identity.CertExpired:
		return cred, j.join(ctx, relay, id, dial(Credential{TLS: cred.TLS, Hello: j.hello}))
	case identity.CertDue:
		// What it has still serves: a relay that does not renew must not cost
		// the tunnel.
		if err := renew(ctx, relay, id, dial(cred)); err != nil && j.Report != nil {
			j.Report(fmt.Errorf("renew certificate at %s: %w", relay, err))
		}
	case identity.CertFresh:
	}
	return cred, nil
}

// Refused discards a certificate that the relay does not take any more, so
// that the next attempt joins anew.
func (j *Joined) Refused(relay string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.Token == nil {
		return
	}
	if id, err := j.open(relay); err == nil && id.Status() != identity.CertNone {
		_ = id.Discard()
	}
}

func (j *Joined) open(relay string) (*identity.AgentIdentity, error) {
	pin := j.Trust.CAPin
	if pin == "" {
		p, err := identity.PinOfFile(j.Trust.CAFile)
		if err != nil {
			return nil, err
		}
		pin = p.String()
	}
	return j.Store.Open(j.Node, pin, relay)
}

func (j *Joined) hello() (*stream.Hello, error) {
	if j.Token == nil {
		return nil, errors.New("no certificate yet and no join token to buy one with")
	}
	token, err := j.Token()
	if err != nil {
		return nil, fmt.Errorf("read join token: %w", err)
	}
	return &stream.Hello{Credential: stream.CredentialJoin, Token: token}, nil
}

func (j *Joined) join(ctx context.Context, relay string, id *identity.AgentIdentity, d *connect.Dialer) error {
	err := ask(ctx, relay, d, func(r controlv1.RegistryClient) error {
		csr, err := id.CSR()
		if err != nil {
			return err
		}
		answer, err := r.Join(ctx, &controlv1.JoinRequest{Csr: csr})
		if err != nil {
			return err
		}
		return id.Save(answer.GetChain())
	})
	if status.Code(err) == codes.AlreadyExists {
		return fmt.Errorf("join as node %q: the name is taken by another key; free it with `culvert-relay forget %s` if that node is gone: %w", id.Node(), id.Node(), err)
	}
	if err != nil {
		return fmt.Errorf("join as node %q: %w", id.Node(), err)
	}
	return nil
}

func renew(ctx context.Context, relay string, id *identity.AgentIdentity, d *connect.Dialer) error {
	return ask(ctx, relay, d, func(r controlv1.RegistryClient) error {
		csr, err := id.CSR()
		if err != nil {
			return err
		}
		answer, err := r.Renew(ctx, &controlv1.RenewRequest{Csr: csr})
		if err != nil {
			return err
		}
		return id.Save(answer.GetChain())
	})
}

// ask runs f against the registry of a relay over a session of its own.
func ask(ctx context.Context, relay string, d *connect.Dialer, f func(controlv1.RegistryClient) error) error {
	sess, err := d.Dial(ctx, relay)
	if err != nil {
		return err
	}
	defer sess.Close()
	cc, err := connect.Control(sess)
	if err != nil {
		return err
	}
	defer cc.Close()
	return f(controlv1.NewRegistryClient(cc))
}

func clientTLS(cfg identity.ClientConfig, relay string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(relay)
	if err != nil {
		return nil, fmt.Errorf("relay address %q: %w", relay, err)
	}
	cfg.ServerName, cfg.ALPN = host, stream.ALPNAgent
	return identity.ClientTLS(cfg)
}
