package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Joined is the Identity of an agent that gets its certificate from the relay
// with a join token, and renews it there. Node, Store and Trust must be set. It
// must not be copied.
//
// A certificate that a relay refuses is not thrown away: the relay may have been
// set back, and the token may be gone. The next attempt joins with the same key,
// and if that fails, the one after it shows the old certificate again.
type Joined struct {
	Node  string
	Store *identity.AgentStore
	Trust Trust
	// Token returns the join token. It is asked each time one is needed, so that
	// a file may come late. nil: there is none.
	Token  func() (string, error)
	Report func(error) // hears of files that became unreadable; may be nil

	mu    sync.Mutex
	kept  map[*identity.AgentIdentity]*keeping
	known string // the pin of Trust.CAFile when it could last be told
}

var _ Identity = (*Joined)(nil)

// keeping goes with an identity, which relays of one authority share.
type keeping struct {
	turn       chan struct{} // held by whoever asks a relay for a certificate
	generation int64         // of the certificate; whoever has the turn may touch it
	refused    atomic.Int64  // the generation that a relay did not take
}

func (k *keeping) enter(ctx context.Context) error {
	select {
	case k.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the certificate asked for at another relay: %w", context.Cause(ctx))
	}
}

func (k *keeping) leave() { <-k.turn }

// For returns the certificate for a relay, after joining if need be. One that is
// due serves: it is renewed over the tunnel that it makes.
func (j *Joined) For(ctx context.Context, relay string, dial func(Credential) *connect.Dialer) (Credential, error) {
	id, k, err := j.open(relay)
	if err != nil {
		return Credential{}, err
	}
	if err := k.enter(ctx); err != nil {
		return Credential{}, err
	}
	defer k.leave()
	tc, err := clientTLS(relay, j.Trust, identity.ClientConfig{Certificate: id.Certificate, Report: j.Report})
	if err != nil {
		return Credential{}, err
	}
	refused := k.refused.Swap(0) == k.generation
	if s := id.Status(); s == identity.CertNone || s == identity.CertExpired || refused {
		if err := j.join(ctx, relay, id, dial); err != nil {
			return Credential{}, err
		}
		k.generation++
	}
	renew := func(ctx context.Context, registry controlv1.RegistryClient) (time.Time, error) {
		return k.renew(ctx, id, registry)
	}
	return Credential{TLS: tc, RenewAt: id.RenewAt(), Renew: renew, Refused: j.refusal(k)}, nil
}

// refusal makes the attempt after a refusal join anew, if there is a token for
// it. Several tunnels may be refused for one certificate: once the next one is
// there, that is no reason any more.
func (j *Joined) refusal(k *keeping) func() {
	if j.Token == nil {
		return nil
	}
	shown := k.generation
	return func() { k.refused.Store(shown) }
}

// renew replaces the certificate. The key stays.
func (k *keeping) renew(ctx context.Context, id *identity.AgentIdentity, registry controlv1.RegistryClient) (time.Time, error) {
	if err := k.enter(ctx); err != nil {
		return time.Time{}, err
	}
	defer k.leave()
	csr, err := id.CSR()
	if err != nil {
		return time.Time{}, err
	}
	answer, err := registry.Renew(ctx, &controlv1.RenewRequest{Csr: csr})
	if err != nil {
		return time.Time{}, fmt.Errorf("renew the certificate of node %q: %w", id.Node(), err)
	}
	if err := id.Save(answer.GetChain()); err != nil {
		return time.Time{}, err
	}
	k.generation++
	return id.RenewAt(), nil
}

// open returns the identity for a relay and what goes with it.
func (j *Joined) open(relay string) (*identity.AgentIdentity, *keeping, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	pin, err := j.pin()
	if err != nil {
		return nil, nil, err
	}
	id, err := j.Store.Open(j.Node, pin, relay)
	if err != nil {
		return nil, nil, err
	}
	k := j.kept[id]
	if k == nil {
		if j.kept == nil {
			j.kept = make(map[*identity.AgentIdentity]*keeping)
		}
		k = &keeping{turn: make(chan struct{}, 1), generation: 1}
		j.kept[id] = k
	}
	return id, k, nil
}

// pin names the relays' authority. A CA file that does not say any more which one
// it is, as while a second one is being brought in, is still for the one it was.
func (j *Joined) pin() (string, error) {
	if j.Trust.CAPin != "" {
		return j.Trust.CAPin, nil
	}
	p, err := identity.PinOfFile(j.Trust.CAFile)
	switch {
	case err == nil:
		j.known = p.String()
	case j.known == "":
		return "", err
	}
	return j.known, nil
}

// join gets a certificate with the join token. The TLS of that session shows
// none: one that is not good any more would end it.
func (j *Joined) join(ctx context.Context, relay string, id *identity.AgentIdentity, dial func(Credential) *connect.Dialer) error {
	hello, err := j.hello(id)
	if err != nil {
		return err
	}
	tc, err := clientTLS(relay, j.Trust, identity.ClientConfig{Report: j.Report})
	if err != nil {
		return err
	}
	ctx, cancel := half(ctx)
	defer cancel()
	d := dial(Credential{TLS: tc, Hello: func() (*stream.Hello, error) { return hello, nil }})
	switch err = ask(ctx, relay, d, id); {
	case err == nil:
		return nil
	case status.Code(err) == codes.AlreadyExists, errors.Is(err, &stream.Error{Code: stream.NameTaken}):
		return fmt.Errorf("join %s as node %q: the name is taken by another key. If this node was set up anew, run %q at the relay; "+
			"if another machine has the name, give this one another: %w", relay, id.Node(), "culvert-relay forget "+id.Node(), err)
	case errors.Is(err, &stream.Error{Code: stream.Unauthenticated}):
		return fmt.Errorf("join %s as node %q: the relay does not take the join token: %w", relay, id.Node(), err)
	}
	return fmt.Errorf("join %s as node %q: %w", relay, id.Node(), err)
}

// half leaves the other half of the time to whoever waits for the turn: the next
// address of a relay may be the one that answers.
func half(ctx context.Context) (context.Context, context.CancelFunc) {
	end, limited := ctx.Deadline()
	if !limited {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(end)/2)
}

// hello presents the join token.
func (j *Joined) hello(id *identity.AgentIdentity) (*stream.Hello, error) {
	if j.Token == nil {
		if id.Status() == identity.CertExpired {
			return nil, errors.New("the certificate is over, and there is no join token to get another with")
		}
		return nil, errors.New("there is no certificate yet and no join token to get one with")
	}
	token, err := j.Token()
	if err != nil {
		return nil, fmt.Errorf("read join token: %w", err)
	}
	return &stream.Hello{Credential: stream.CredentialJoin, Token: token}, nil
}

// ask joins over a session of its own, and saves what it gets.
func ask(ctx context.Context, relay string, d *connect.Dialer, id *identity.AgentIdentity) error {
	csr, err := id.CSR()
	if err != nil {
		return err
	}
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
	answer, err := controlv1.NewRegistryClient(cc).Join(ctx, &controlv1.JoinRequest{Csr: csr})
	if err != nil {
		return err
	}
	return id.Save(answer.GetChain())
}
