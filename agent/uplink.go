package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
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
	// maxTunnels bounds the tunnels to one address of a relay: the one in use, and those that
	// it has said goodbye on but has not ended.
	maxTunnels = 4
	// repeatAfter is when the same complaint is worth another line.
	repeatAfter = time.Minute
)

// keeper keeps a tunnel to one address of a relay.
type keeper struct {
	agent *Agent
	relay string // host:port as the agent was given it
	addr  string // host:port that is dialled
	log   *slog.Logger

	// Of an address that a name was resolved to.
	name *follower // nil: there is no such name
	ip   netip.Addr

	told bool // by a relay, and perhaps nothing that this node can reach

	mu       sync.Mutex
	unwanted bool               // the name does not have the address any more
	over     bool               // it will not dial again
	giveUp   context.CancelFunc // ends the attempt under way
}

func (a *Agent) newKeeper(relay, addr string) *keeper {
	return &keeper{
		agent: a, relay: relay, addr: addr,
		log: a.cfg.Log.With("relay", relay, "addr", addr), giveUp: func() {},
	}
}

// want undoes leave, and tells whether that is possible still.
func (k *keeper) want() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unwanted = false
	return !k.over
}

// leave has the address not dialled again. The tunnels that there are live on.
func (k *keeper) leave() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.unwanted {
		k.log.Debug("the relay's name does not have this address any more")
	}
	k.unwanted = true
	k.giveUp()
}

// next returns the context of the next attempt, and false if there is to be none.
func (k *keeper) next(ctx context.Context) (context.Context, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.giveUp()
	if k.unwanted || ctx.Err() != nil {
		k.over = true
		return nil, false
	}
	ctx, k.giveUp = context.WithCancel(ctx)
	return ctx, true
}

// run keeps the tunnel until ctx ends or the address is left, for ever trying
// again. A relay that says it goes away is replaced at once, while the streams on
// the old tunnel run on until hard ends. It returns when all its tunnels have
// ended.
func (k *keeper) run(ctx, hard context.Context) {
	k.agent.keepers.Add(1)
	defer k.agent.keepers.Add(-1)
	var tunnels sync.WaitGroup
	defer tunnels.Wait()
	pause := connect.Backoff{First: firstPause, Max: k.agent.cfg.MaxBackoff}
	if k.told {
		pause.Max = max(pause.Max, toldMax)
	} else {
		defer k.agent.fleet.keep(k.addr)()
		seeking, stop := context.WithCancel(ctx)
		defer stop()
		tunnels.Go(func() { k.seek(seeking, hard, &tunnels) })
	}
	slots := make(chan struct{}, maxTunnels)
	said := complaint{log: k.log}
	spread := time.Duration(0)
	if k.name != nil {
		spread = k.agent.fleet.pace() // all nodes find a new address at the same time
	}
	for {
		attempt, wanted := k.next(ctx)
		if !wanted {
			return
		}
		k.turn(attempt, spread)
		spread = 0
		if !connect.Sleep(attempt, pause.Next()) || !occupy(attempt, slots) {
			continue
		}
		up, err := k.dial(attempt)
		if err != nil {
			<-slots
			if attempt.Err() == nil {
				k.failed(err, &said)
			}
			continue
		}
		began := time.Now()
		life, end := context.WithCancelCause(hard)
		tunnels.Go(func() {
			defer func() { <-slots }()
			defer k.name.reached()()
			up.serve(ctx, life, end)
		})
		select {
		case <-life.Done():
			if same, ok := isSame(context.Cause(life)); ok {
				k.park(attempt, same)
				continue
			}
		case <-up.replaced:
			k.turn(attempt, up.spread)
		case <-ctx.Done():
		}
		k.name.lookAgain()
		if time.Since(began) >= settled {
			pause.Reset()
		}
	}
}

// turn waits for this node's turn to dial, which comes within spread, as all nodes
// dial at that time. Without another tunnel it comes soon, whenever that is lost.
func (k *keeper) turn(ctx context.Context, spread time.Duration) {
	if spread <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, rand.N(spread)) //nolint:gosec // no secret
	defer cancel()
	for {
		empty, changed := k.agent.fleet.empty()
		if empty {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
	connect.Sleep(ctx, rand.N(min(spread, time.Second))) //nolint:gosec // no secret
}

// failed says that there is no tunnel.
func (k *keeper) failed(err error, said *complaint) {
	if k.told {
		k.log.Debug("no tunnel to an address that a relay told", "err", err)
		return
	}
	if noRoute(err) && k.name.isReached() {
		// The name has addresses of a family that this node has not.
		k.log.Debug("no way to this address of the relay", "err", err)
		return
	}
	k.agent.metrics.relayFailed()
	said.warn("no tunnel", err)
	k.name.lookAgain()
}

// noRoute tells whether this node itself knows no way to an address.
func noRoute(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
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

// dial makes a session to a relay, getting a certificate first if need be. It is in
// the fleet from the start: two that lead to one relay must know of each other before
// either is registered.
func (k *keeper) dial(ctx context.Context) (_ *uplink, err error) {
	tie := k.agent.fleet.enter(k.relay, k.addr)
	defer func() {
		if err != nil {
			k.agent.fleet.leave(tie)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, k.agent.cfg.DialTimeout)
	defer cancel()
	cred, err := k.agent.cfg.Identity.For(ctx, k.relay, k.dialer)
	if err != nil {
		return nil, err
	}
	sess, err := k.dialer(cred).Dial(ctx, k.relay)
	if err != nil {
		if unwelcome(err) && cred.Refused != nil {
			cred.Refused()
		}
		return nil, err
	}
	cc, err := connect.Control(sess)
	if err != nil {
		return nil, errors.Join(err, sess.Close())
	}
	return &uplink{
		agent: k.agent, relay: k.relay, addr: k.addr, log: k.log,
		sess: sess, control: cc, shown: cred, tie: tie,
		known: make(chan struct{}), replaced: make(chan struct{}),
	}, nil
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

// dialer returns how to dial this address with a credential.
func (k *keeper) dialer(c Credential) *connect.Dialer {
	return &connect.Dialer{
		TLS: c.TLS, ALPN: stream.ALPNAgent, Hello: c.Hello,
		Addr: k.addr, Proxy: k.agent.cfg.Proxy, Tunnel: k.agent.cfg.Tunnel,
	}
}

// complaint keeps a trouble that repeats itself from filling the log. What differs
// only in numbers, as that of a local port, is the same trouble.
type complaint struct {
	log  *slog.Logger
	last string
	at   time.Time
}

func (c *complaint) warn(msg string, err error) {
	text := strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return -1
		}
		return r
	}, err.Error())
	level := slog.LevelDebug
	if text != c.last || time.Since(c.at) >= repeatAfter {
		level, c.last, c.at = slog.LevelWarn, text, time.Now()
	}
	c.log.Log(context.Background(), level, msg, "err", err)
}
