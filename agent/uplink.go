package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// firstPause follows the first attempt after a loss, which is immediate.
	firstPause = 100 * time.Millisecond
	// settled is how long a tunnel must have lasted for its loss to start the
	// pauses anew: one that is refused at once must not be dialled in a loop.
	settled = 3 * time.Second
)

// keep keeps a tunnel to one relay until ctx ends, for ever trying again. A
// relay that says it goes away is replaced at once, while the streams on the
// old tunnel run on until hard ends.
func (a *Agent) keep(ctx, hard context.Context, relay string) {
	var old sync.WaitGroup
	defer old.Wait()
	pause := backoff{limit: a.cfg.MaxBackoff}
	for {
		if !sleep(ctx, pause.next()) {
			return
		}
		up, err := a.dial(ctx, relay)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			a.metrics.relayFailed()
			a.cfg.Log.Warn("no tunnel", "relay", relay, "err", err, "retry_in_at_most", pause.limit.String())
			continue
		}
		began := time.Now()
		ended := make(chan struct{})
		old.Go(func() {
			defer close(ended)
			up.serve(ctx, hard)
		})
		select {
		case <-ended:
		case <-up.replaced:
		}
		if time.Since(began) >= settled {
			pause = backoff{limit: a.cfg.MaxBackoff}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// dial makes a session to a relay, buying or renewing a certificate first if
// there is none.
func (a *Agent) dial(ctx context.Context, relay string) (*uplink, error) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.DialTimeout)
	defer cancel()
	cred, err := a.cfg.Identity.For(ctx, relay, a.dialer)
	if err != nil {
		return nil, err
	}
	sess, err := a.dialer(cred).Dial(ctx, relay)
	if err != nil {
		if refused := (*stream.Error)(nil); errors.As(err, &refused) && refused.Code == stream.Unauthenticated {
			a.cfg.Identity.Refused(relay)
		}
		return nil, err
	}
	cc, err := connect.Control(sess)
	if err != nil {
		return nil, errors.Join(err, sess.Close())
	}
	return &uplink{agent: a, relay: relay, sess: sess, control: cc, replaced: make(chan struct{})}, nil
}

// dialer returns how to dial with a credential.
func (a *Agent) dialer(c Credential) *connect.Dialer {
	return &connect.Dialer{TLS: c.TLS, ALPN: stream.ALPNAgent, Hello: c.Hello, Proxy: a.cfg.Proxy, Tunnel: a.cfg.Tunnel}
}

// backoff gives the pauses between attempts: none, then from firstPause
// doubling up to limit, each drawn from its upper half so that the agents of a
// lost relay do not come back in step.
type backoff struct {
	limit time.Duration
	last  time.Duration
	begun bool
}

func (b *backoff) next() time.Duration {
	if !b.begun {
		b.begun = true
		return 0
	}
	b.last = min(max(2*b.last, firstPause), b.limit)
	return b.last/2 + rand.N(b.last/2+1)
}

// sleep waits for d and tells whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// acceptControl takes a stream on which the relay asks questions.
func (u *uplink) acceptControl(st *tunnel.Stream) {
	if err := u.agent.control.Deliver(st, u.relay); err != nil && !errors.Is(err, net.ErrClosed) {
		u.agent.cfg.Log.Warn("question refused", "relay", u.relay, "err", fmt.Sprint(err))
	}
}
