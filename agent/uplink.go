package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// firstPause follows the first attempt after a loss, which is immediate.
	firstPause = 100 * time.Millisecond
	// settled is how long a tunnel must have lasted for its loss to start the
	// pauses anew: one that is refused at once must not be dialled in a loop.
	settled = 3 * time.Second
	// maxTunnels bounds the tunnels to one relay: the one in use, and those that
	// it has said goodbye on but has not ended.
	maxTunnels = 4
	// repeatAfter is when the same complaint is worth another line.
	repeatAfter = time.Minute
)

// keep keeps a tunnel to one relay until ctx ends, for ever trying again. A
// relay that says it goes away is replaced at once, while the streams on the
// old tunnel run on until hard ends. It returns when all its tunnels have ended.
func (a *Agent) keep(ctx, hard context.Context, relay string) {
	var tunnels sync.WaitGroup
	defer tunnels.Wait()
	slots := make(chan struct{}, maxTunnels)
	pause := connect.Backoff{First: firstPause, Max: a.cfg.MaxBackoff}
	said := complaint{log: a.cfg.Log}
	for connect.Sleep(ctx, pause.Next()) && occupy(ctx, slots) {
		up, err := a.dial(ctx, relay)
		if err != nil {
			<-slots
			if ctx.Err() == nil {
				a.metrics.relayFailed()
				said.warn("no tunnel", relay, err)
			}
			continue
		}
		began := time.Now()
		life, end := context.WithCancelCause(hard)
		tunnels.Go(func() {
			defer func() { <-slots }()
			up.serve(ctx, life, end)
		})
		select {
		case <-life.Done():
		case <-up.replaced:
		case <-ctx.Done():
		}
		if time.Since(began) >= settled {
			pause.Reset()
		}
	}
}

// occupy waits for a free slot and tells whether ctx still lives.
func occupy(ctx context.Context, slots chan<- struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// dial makes a session to a relay, getting a certificate first if need be.
func (a *Agent) dial(ctx context.Context, relay string) (*uplink, error) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.DialTimeout)
	defer cancel()
	cred, err := a.cfg.Identity.For(ctx, relay, a.dialer)
	if err != nil {
		return nil, err
	}
	sess, err := a.dialer(cred).Dial(ctx, relay)
	if err != nil {
		if unwelcome(err) {
			a.cfg.Identity.Refused(relay)
		}
		return nil, err
	}
	cc, err := connect.Control(sess)
	if err != nil {
		return nil, errors.Join(err, sess.Close())
	}
	return &uplink{agent: a, relay: relay, sess: sess, control: cc, shown: cred, replaced: make(chan struct{})}, nil
}

// unwelcome tells whether a relay refused the credential: in its answer to it, or
// already in TLS, as one does whose clock says that a certificate is over.
func unwelcome(err error) bool {
	if errors.Is(err, &stream.Error{Code: stream.Unauthenticated}) {
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" // what crypto/tls calls an alert of the peer
}

// dialer returns how to dial with a credential.
func (a *Agent) dialer(c Credential) *connect.Dialer {
	return &connect.Dialer{TLS: c.TLS, ALPN: stream.ALPNAgent, Hello: c.Hello, Proxy: a.cfg.Proxy, Tunnel: a.cfg.Tunnel}
}

// complaint keeps a trouble that repeats itself from filling the log.
type complaint struct {
	log  *slog.Logger
	last string
	at   time.Time
}

func (c *complaint) warn(msg, relay string, err error) {
	level := slog.LevelDebug
	if text := fmt.Sprint(err); text != c.last || time.Since(c.at) >= repeatAfter {
		level, c.last, c.at = slog.LevelWarn, text, time.Now()
	}
	c.log.Log(context.Background(), level, msg, "relay", relay, "err", err)
}
