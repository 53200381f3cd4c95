package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
)

const (
	// lookEvery is how often a relay's name is resolved, a fifth more or less so
	// that nodes do not ask in step. Resolvers in clusters keep an answer as long.
	lookEvery = 5 * time.Second
	// lookPause is the shortest time between two lookups, up to half less.
	lookPause = time.Second
	// lookTimeout bounds one lookup.
	lookTimeout = 5 * time.Second
	// maxAddresses bounds the addresses of one name that tunnels are kept to.
	maxAddresses = 64
	// maxKeepers bounds those of all relays.
	maxKeepers = 128
)

var (
	errNoAddress = errors.New("the answer holds no address; the tunnels that there are stay")
	errCrowded   = fmt.Errorf("the relay's name has more than %d addresses, and some get no tunnel: run fewer relays behind one name", maxAddresses)
	errFull      = fmt.Errorf("the relays have more than %d addresses together, and some get no tunnel: name fewer relays", maxKeepers)
)

// follower keeps a tunnel to every address of a relay's name. Its methods that
// keepers call do nothing for nil: for a relay whose name is not resolved here.
type follower struct {
	agent      *Agent
	relay      string // host:port
	host, port string
	log        *slog.Logger
	stale      chan struct{} // somebody thinks that the addresses have changed
	tunnels    atomic.Int64  // to any of them

	mu      sync.Mutex
	keepers []*keeper // that run; at most one of an address dials
}

// follow keeps the tunnels to a relay until ctx ends. It returns when they all
// have ended, which hard forces.
func (a *Agent) follow(ctx, hard context.Context, relay string) {
	host, port, err := net.SplitHostPort(relay)
	if err != nil || !a.resolves(relay, host) {
		a.newKeeper(relay, relay).run(ctx, hard)
		return
	}
	f := &follower{
		agent: a, relay: relay, host: host, port: port,
		log: a.cfg.Log.With("relay", relay), stale: make(chan struct{}, 1),
	}
	f.run(ctx, hard)
}

// resolves tells whether the addresses of a relay are to be found here: not of
// what is an address already, nor if a proxy is asked for it, which may know names
// that this node does not.
func (a *Agent) resolves(relay, host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	if a.cfg.Proxy == nil {
		return true
	}
	proxy, err := a.cfg.Proxy(&url.URL{Scheme: "https", Host: relay})
	return proxy == nil && err == nil // the keeper complains of the error
}

// run looks the name up time and again. When that fails or there is no answer, the
// addresses stay what they were.
func (f *follower) run(ctx, hard context.Context) {
	var keepers sync.WaitGroup
	defer keepers.Wait()
	unanswered, crowded := complaint{log: f.log}, complaint{log: f.log}
	hurry := connect.Backoff{First: lookPause, Max: lookEvery}
	for known := false; ; {
		answer, err := f.lookUp(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			known = true
			if err := f.take(ctx, hard, answer, &keepers); err != nil {
				crowded.warn("not every relay gets a tunnel", err)
			}
		default:
			f.agent.metrics.lookupFailed()
			unanswered.warn("addresses of the relay not found", err)
			if !known {
				f.lookAgain()
			}
		}
		if !f.rest(ctx, &hurry) {
			return
		}
	}
}

// lookUp returns the addresses of the name.
func (f *follower) lookUp(ctx context.Context) (map[netip.Addr]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	addrs, err := f.agent.cfg.Resolve(ctx, f.host)
	if err != nil {
		return nil, err
	}
	answer := make(map[netip.Addr]bool, len(addrs))
	for _, ip := range addrs {
		// Resolvers that block names answer with the unspecified address.
		if ip = ip.Unmap(); ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() {
			answer[ip] = true
		}
	}
	if len(answer) == 0 {
		return nil, fmt.Errorf("look up %s: %w", f.host, errNoAddress)
	}
	return answer, nil
}

// take leaves the addresses that are not in the answer, and has a keeper run for
// each one that is. The error says why some have none.
func (f *follower) take(ctx, hard context.Context, answer map[netip.Addr]bool, keepers *sync.WaitGroup) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := maps.Clone(answer)
	for _, k := range f.keepers {
		switch {
		case !answer[k.ip]:
			k.leave()
		case k.want():
			delete(fresh, k.ip)
		}
	}
	// In no order, so that nodes with more addresses than tunnels spread.
	for ip := range fresh {
		if err := f.makeRoom(); err != nil {
			return err
		}
		k := f.agent.newKeeper(f.relay, net.JoinHostPort(ip.String(), f.port))
		k.name, k.ip = f, ip
		f.keepers = append(f.keepers, k)
		keepers.Go(func() {
			defer f.remove(k)
			k.run(ctx, hard)
		})
	}
	return nil
}

// makeRoom allows for one more keeper. Every name may have one, whatever the
// others have; the rest comes from what the agent has to spare. mu is held.
func (f *follower) makeRoom() error {
	switch {
	case len(f.keepers) == 0:
		return nil
	case len(f.keepers) >= maxAddresses:
		return errCrowded
	case f.agent.spare.Add(-1) < 0:
		f.agent.spare.Add(1)
		return errFull
	}
	return nil
}

// remove takes a keeper that has ended off the list.
func (f *follower) remove(k *keeper) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keepers = slices.DeleteFunc(f.keepers, func(o *keeper) bool { return o == k })
	if len(f.keepers) > 0 {
		f.agent.spare.Add(1)
	}
}

// rest waits until it is time for the next lookup, and tells whether ctx still
// lives. Who asks for one does not wait for it long, but the longer the more often
// that happens: without relays a cluster's nodes must not take its DNS away too.
func (f *follower) rest(ctx context.Context, hurry *connect.Backoff) bool {
	began := time.Now()
	whole := lookEvery - lookEvery/5 + rand.N(2*lookEvery/5) //nolint:gosec // no secret
	tick := time.NewTimer(whole)
	defer tick.Stop()
	select {
	case <-tick.C:
		hurry.Reset()
		return true
	case <-f.stale:
		pause := min(max(hurry.Next(), connect.UpperHalf(lookPause)), whole)
		return connect.Sleep(ctx, pause-time.Since(began))
	case <-ctx.Done():
		return false
	}
}

// lookAgain has the name looked up soon.
func (f *follower) lookAgain() {
	if f == nil {
		return
	}
	select {
	case f.stale <- struct{}{}:
	default: // somebody asked already
	}
}

// reached counts a tunnel until what it returns is called.
func (f *follower) reached() func() {
	if f == nil {
		return func() {}
	}
	f.tunnels.Add(1)
	return func() { f.tunnels.Add(-1) }
}

// isReached tells whether there is a tunnel to any address.
func (f *follower) isReached() bool { return f != nil && f.tunnels.Load() > 0 }
