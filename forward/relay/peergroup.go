package relay

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

const (
	// maxPeerAddrs bounds the addresses that agents are told.
	maxPeerAddrs = 64
	// lookPeersTimeout bounds one look at who the peers are.
	lookPeersTimeout = 5 * time.Second
	// dialsPerSecond is what agents and clients that are told to come or to go may
	// ask of the relays: a handshake and a credential cost some milliseconds of a core.
	dialsPerSecond = 200
	// maxSpread bounds the time that they are given for it. A bound that many nodes
	// meet makes a storm of what should be a queue, see test/scale.
	maxSpread = 5 * time.Minute
)

// Peers says which relays serve the same nodes and the same clients as this one.
// It is the word of the cluster, of DNS or of whoever set the relays up: relays do
// not ask each other.
type Peers struct {
	// Group is a name of theirs, the same in all. At most 256 bytes.
	Group string

	// Look returns where agents may reach them, this relay included, at one
	// address of each family. It is asked time and again; ctx bounds it to 5 s. An
	// error or an empty answer changes nothing. nil: peers are not known.
	Look func(ctx context.Context) ([]netip.AddrPort, error)

	// Every is the time between two looks. 0 means 3 s.
	Every time.Duration
}

var errNoPeers = errors.New("the answer holds no address; what was known stays")

// peerGroup is what is known of the peers now.
type peerGroup struct {
	cfg Peers

	mu      sync.Mutex
	addrs   []netip.AddrPort // sorted; none: not known
	changed chan struct{}    // closed and replaced when addrs changed
}

func newPeerGroup(cfg Peers) *peerGroup {
	setDefault(&cfg.Every, 3*time.Second)
	return &peerGroup{cfg: cfg, changed: make(chan struct{})}
}

// watch follows the peers until ctx ends. complain hears why they are not found.
func (g *peerGroup) watch(ctx context.Context, complain func(error)) {
	if g.cfg.Look == nil {
		return
	}
	every := time.NewTicker(g.cfg.Every)
	defer every.Stop()
	for {
		if err := g.look(ctx); err != nil && ctx.Err() == nil {
			complain(err)
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

func (g *peerGroup) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookPeersTimeout)
	defer cancel()
	addrs, err := g.cfg.Look(ctx)
	if err != nil {
		return err
	}
	addrs = slices.DeleteFunc(slices.Clone(addrs), func(a netip.AddrPort) bool {
		return !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast()
	})
	for i, a := range addrs {
		addrs[i] = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	addrs = slices.Compact(addrs)
	if len(addrs) == 0 {
		return errNoPeers
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Equal(addrs, g.addrs) {
		g.addrs = addrs
		close(g.changed)
		g.changed = make(chan struct{})
	}
	return nil
}

// now returns the addresses of the peers, and what is closed when they change.
func (g *peerGroup) now() ([]netip.AddrPort, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.addrs, g.changed
}

// count returns how many relays there are, this one included; 0: not known.
func (g *peerGroup) count() int {
	addrs, _ := g.now()
	return countRelays(addrs)
}

// countRelays counts relays that may have an address of each family.
func countRelays(addrs []netip.AddrPort) int {
	four := 0
	for _, a := range addrs {
		if a.Addr().Is4() {
			four++
		}
	}
	return max(four, len(addrs)-four)
}

// message is what agents are told, of which there are so many here.
func (g *peerGroup) message(addrs []netip.AddrPort, agents int) *controlv1.Peers {
	m := &controlv1.Peers{
		Group: clip(g.cfg.Group), Count: uint32(countRelays(addrs)),
		Pace: durationpb.New(spreadOver(agents)),
	}
	for _, a := range addrs[:min(len(addrs), maxPeerAddrs)] {
		m.Addrs = append(m.Addrs, a.String())
	}
	return m
}

// spreadOver is the time in which so many can dial without harm.
func spreadOver(n int) time.Duration {
	return min(time.Duration(n)*time.Second/dialsPerSecond, maxSpread)
}
