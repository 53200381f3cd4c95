package agent

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

const (
	// maxNamed bounds the tunnels that are named to a relay; it takes no more.
	maxNamed = 256
	// maxTold bounds the addresses that one relay may tell, and the relays that it
	// may say there are.
	maxTold = 64
	// maxID bounds the name of a relay, in bytes.
	maxID = 64
	// maxPace bounds the pause that a relay may ask for.
	maxPace = 5 * time.Minute
)

// fleet is what the agent knows of its tunnels and of the relays they lead to. It
// touches memory only.
type fleet struct {
	mu      sync.Mutex
	last    uint64          // number of a tunnel
	ties    map[uint64]*tie // tunnels that are good for new streams, or on their way to be
	kept    map[string]int  // addresses that are dialled whatever relays tell
	changed chan struct{}   // closed and replaced when something changed
}

// tie is one tunnel in the fleet. All but the first three are under its lock.
type tie struct {
	number      uint64
	relay, addr string        // as the agent was given it, as it was dialled
	gone        chan struct{} // closed when the tunnel is of no use for new streams
	id          string        // of the relay; empty: not registered
	peers       peers
}

// peers is what a relay says of those who serve the same nodes.
type peers struct {
	group string
	count int // 0: it says nothing
	addrs []netip.AddrPort
	pace  time.Duration
}

func newFleet() *fleet {
	return &fleet{ties: make(map[uint64]*tie), kept: make(map[string]int), changed: make(chan struct{})}
}

// announce wakes those who wait for a change. mu is held.
func (f *fleet) announce() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// enter gives a tunnel its number.
func (f *fleet) enter(relay, addr string) *tie {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	t := &tie{number: f.last, relay: relay, addr: addr, gone: make(chan struct{})}
	f.ties[t.number] = t
	return t
}

// leave takes a tunnel out. Doing it again does nothing.
func (f *fleet) leave(t *tie) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ties[t.number] == nil {
		return
	}
	delete(f.ties, t.number)
	close(t.gone)
	f.announce()
}

// others names the tunnels beside t.
func (f *fleet) others(t *tie) []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := slices.Sorted(maps.Keys(f.ties))
	out = slices.DeleteFunc(out, func(n uint64) bool { return n == t.number })
	return out[:min(len(out), maxNamed)]
}

// find returns a tunnel by its number, nil if it has gone.
func (f *fleet) find(number uint64) *tie {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ties[number]
}

// registered notes which relay a tunnel leads to.
func (f *fleet) registered(t *tie, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t.id = id[:min(len(id), maxID)]
	f.announce()
}

// told notes what the relay of a tunnel says of its peers.
func (f *fleet) told(t *tie, p peers) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t.peers = p
	f.announce()
}

// keep notes that an address is dialled whatever relays tell, until what it returns
// is called.
func (f *fleet) keep(addr string) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept[addr]++
	f.announce()
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.kept[addr]--; f.kept[addr] == 0 {
			delete(f.kept, addr)
		}
		f.announce()
	}
}

// pace returns over what time relays ask nodes to spread their dials; 0 if there is no
// relay that asks.
func (f *fleet) pace() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	longest := time.Duration(0)
	for _, t := range f.ties {
		longest = max(longest, t.peers.pace)
	}
	return longest
}

// empty tells whether there is no tunnel that is good for new streams, until changed
// is closed.
func (f *fleet) empty() (none bool, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !slices.ContainsFunc(slices.Collect(maps.Values(f.ties)), func(t *tie) bool { return t.id != "" }), f.changed
}

// hint is an address that a relay told.
type hint struct {
	relay string // what it must prove to be
	pace  time.Duration
}

// hints returns the addresses that relays tell and that are not dialled anyway. It
// is false if no relay tells any, which says nothing.
func (f *fleet) hints() (hints map[string]hint, told bool, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hints = make(map[string]hint)
	for _, t := range f.ties {
		for _, a := range t.peers.addrs {
			told = true
			if addr := a.String(); f.kept[addr] == 0 {
				hints[addr] = hint{relay: t.relay, pace: t.peers.pace}
			}
		}
	}
	return hints, told, f.changed
}

// gap is how far the agent is from a tunnel to every relay of a group.
type gap struct {
	group          string
	reached, count int
	pace           time.Duration
	held           string // changes with what there is and what there should be
	changed        <-chan struct{}
}

func (g *gap) missing() int { return max(0, g.count-g.reached) }

// gap returns what is missing of the relays that addr stands for: one address of
// what the agent was given as relay. That is nothing if addr is one relay's own.
func (f *fleet) gap(relay, addr string) gap {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := gap{changed: f.changed}
	known := false
	for _, t := range f.ties {
		if t.relay == relay && t.peers.count > 0 {
			g.group, known = t.peers.group, true
			break
		}
	}
	if !known {
		return g
	}
	f.fill(&g, hostOf(addr))
	return g
}

// fill counts the relays of a group. mu is held.
func (f *fleet) fill(g *gap, host netip.Addr) {
	ids := make(map[string]bool)
	own := false
	for _, t := range f.ties {
		if t.peers.count == 0 || t.peers.group != g.group {
			continue
		}
		ids[t.id] = true
		g.count = max(g.count, t.peers.count)
		g.pace = max(g.pace, t.peers.pace)
		own = own || slices.ContainsFunc(t.peers.addrs, func(a netip.AddrPort) bool { return a.Addr() == host })
	}
	g.reached = len(ids)
	g.held = fmt.Sprint(g.count, slices.Sorted(maps.Keys(ids)))
	if own {
		g.count = 0
	}
}

// missing returns how many relays there are that this agent has no tunnel to.
func (f *fleet) missing() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, seen := 0, make(map[string]bool)
	for _, t := range f.ties {
		if t.peers.count > 0 && !seen[t.peers.group] {
			seen[t.peers.group] = true
			g := gap{group: t.peers.group}
			f.fill(&g, netip.Addr{})
			n += g.missing()
		}
	}
	return n
}

// hostOf returns the address in ip:port, the zero one if it is a name.
func hostOf(addr string) netip.Addr {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap()
}

// peersFrom bounds what a relay says of its peers. An address that leads back to
// this node, or to what is behind its links only, is taken only from a relay that
// was reached at such a one.
func peersFrom(m *controlv1.Peers, reachedAt net.Addr) peers {
	local := hostOf(reachedAt.String())
	p := peers{
		group: strings.ToValidUTF8(clip(m.GetGroup()), ""),
		count: int(min(m.GetCount(), maxTold)),
		pace:  min(max(m.GetPace().AsDuration(), 0), maxPace),
	}
	for _, text := range m.GetAddrs()[:min(len(m.GetAddrs()), maxTold)] {
		a, err := netip.ParseAddrPort(text)
		if err != nil || a.Port() == 0 {
			continue
		}
		ip := a.Addr().Unmap()
		near := ip.IsLoopback() && !local.IsLoopback() || ip.IsLinkLocalUnicast() && !local.IsLinkLocalUnicast()
		if ip.IsUnspecified() || ip.IsMulticast() || near {
			continue
		}
		p.addrs = append(p.addrs, netip.AddrPortFrom(ip, a.Port()))
	}
	return p
}
