package relay

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// nodes knows which node is reached over which tunnels, and which pods the
// agents say they have. It touches memory only: nobody waits under its lock.
type nodes struct {
	maxPods int

	mu   sync.Mutex
	all  map[string]*node
	pods map[podName][]*pod

	// A relay that has just started knows nothing: until settled an unknown pod
	// is waited for, and changed is closed at each report and each registration.
	settled time.Time
	changed chan struct{}
	absent  absent

	// elsewhere tells whether there are other relays, at which culvert asks sooner than
	// it waits here. nil: there are none.
	elsewhere func() bool
}

type podName struct{ namespace, name string }

type pod struct {
	*controlv1.Pod
	on *tunnelTo
}

// node is a name with at least one tunnel.
type node struct {
	name    string
	tunnels []*tunnelTo // newest instance first
}

// tunnelTo is one registered tunnel. What is in it from the registration was
// copied and checked; nothing else of a peer's message is kept.
type tunnelTo struct {
	sess         *tunnel.Session
	node         string
	instance     string
	version      string
	capabilities []string
	number       uint64   // among the tunnels of the instance; 0: it has none
	others       []uint64 // of the instance, which live as the agent sees it; only until the tunnel is added
	since        time.Time
	byCert       bool                      // not by a token
	farewell     chan *controlv1.GoingAway // for the agent; holds one

	// Under the lock of nodes.
	leaving   bool
	supersede bool            // a newer instance has registered
	removed   bool            // late reports must not bring it back
	pods      map[string]*pod // by UID
}

func newTunnelTo(sess *tunnel.Session, reg *controlv1.Register) *tunnelTo {
	return &tunnelTo{
		sess: sess, node: reg.GetNode(), instance: reg.GetInstance(), version: reg.GetVersion(),
		capabilities: slices.Clone(reg.GetCapabilities()), since: time.Now(),
		number: reg.GetTunnel(), others: slices.Clone(reg.GetOthers()),
		farewell: make(chan *controlv1.GoingAway, 1), pods: make(map[string]*pod),
	}
}

// announce has a farewell sent to the agent. It does not wait.
func (t *tunnelTo) announce(g *controlv1.GoingAway) {
	select {
	case t.farewell <- g:
	default: // one is enough
	}
}

func newNodes(maxPods int, settled time.Time) *nodes {
	return &nodes{
		maxPods: maxPods, all: make(map[string]*node), pods: make(map[podName][]*pod),
		settled: settled, changed: make(chan struct{}),
	}
}

// taken tells whether a tunnel may not be that of its node, since the node is here
// with a token. A token is for the node its pod runs on, by the word of the cluster;
// a certificate may be for whatever name was free where it was made.
func (n *node) taken(t *tunnelTo) bool {
	return n != nil && t.byCert && slices.ContainsFunc(n.tunnels, func(o *tunnelTo) bool { return !o.byCert })
}

// errTaken means that the name of a node is taken.
var errTaken = errors.New("the name is taken")

// add registers a tunnel. Tunnels of the same instance are a pool; those of an
// older one get no new streams any more, and keep what runs on them. If the agent
// says of one of them that it lives, that one is enough: its number is returned and
// the tunnel not registered. The error is errTaken.
func (ns *nodes) add(t *tunnelTo) (sameAs uint64, err error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := ns.all[t.node]
	if n.taken(t) {
		return 0, errTaken
	}
	if sameAs := n.twin(t); sameAs != 0 {
		return sameAs, nil
	}
	t.others = nil
	if n == nil {
		n = &node{name: t.node}
		ns.all[n.name] = n
	}
	for _, old := range n.tunnels {
		if old.instance != t.instance {
			old.supersede = true
		}
	}
	n.tunnels = slices.Insert(n.tunnels, 0, t)
	ns.announce()
	return 0, nil
}

// twin returns the number of a tunnel that makes t superfluous, 0 if there is none.
// That the agent names it matters: an agent whose network has changed knows first
// which of its tunnels are dead.
func (n *node) twin(t *tunnelTo) uint64 {
	if n == nil || t.number == 0 {
		return 0
	}
	for _, o := range n.tunnels {
		if o.instance == t.instance && o.number != 0 && !o.leaving && o.sess.Err() == nil && slices.Contains(t.others, o.number) {
			return o.number
		}
	}
	return 0
}

// remove takes a tunnel and what it reported away; a node without tunnels is
// gone.
func (ns *nodes) remove(t *tunnelTo) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	t.removed = true
	pods := make([]podName, 0, len(t.pods))
	for uid, p := range t.pods {
		pods = append(pods, podName{p.GetNamespace(), p.GetName()})
		ns.drop(t, uid)
	}
	n := ns.all[t.node]
	if n == nil || !slices.Contains(n.tunnels, t) { // one too many was never in
		return
	}
	n.tunnels = slices.DeleteFunc(n.tunnels, func(o *tunnelTo) bool { return o == t })
	if len(n.tunnels) == 0 {
		delete(ns.all, n.name)
		ns.absent.note(t.node, pods)
	}
}

// awaited returns until when it is worth waiting for a node that has no tunnel, and
// for a report of a pod: while the relay is fresh, or the node has only just been lost.
func (ns *nodes) awaited(node string, pod podName) time.Time {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	until := ns.settled
	for _, t := range []time.Time{ns.absent.node(node), ns.absent.pod(pod)} {
		if t.After(until) {
			until = t
		}
	}
	return until
}

// leaving marks a tunnel whose agent is going away.
func (ns *nodes) leaving(t *tunnelTo) {
	ns.mu.Lock()
	t.leaving = true
	ns.mu.Unlock()
}

// tunnels returns the ways to a node, best first: of the newest instance those
// that stay before those that leave, the less busy first, then what an older
// instance has left. changed is closed at the next report or registration.
func (ns *nodes) tunnels(name string) (ts []*tunnelTo, changed <-chan struct{}) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := ns.all[name]
	if n == nil {
		return nil, ns.changed
	}
	ts = slices.Clone(n.tunnels)
	slices.SortStableFunc(ts, func(a, b *tunnelTo) int {
		return cmp.Or(
			compareBool(a.supersede, b.supersede),
			compareBool(a.leaving, b.leaving),
			cmp.Compare(a.sess.NumStreams(), b.sess.NumStreams()),
		)
	})
	return ts, ns.changed
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// list returns what clients may know of each node; Streams is left to others.
func (ns *nodes) list() []*controlv1.NodeInfo {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	out := make([]*controlv1.NodeInfo, 0, len(ns.all))
	for _, n := range ns.all {
		newest := n.tunnels[0]
		out = append(out, &controlv1.NodeInfo{
			Name:         n.name,
			Version:      newest.version,
			Tunnels:      uint32(len(n.tunnels)),
			Connected:    timestamppb.New(newest.since),
			RemoteAddr:   newest.sess.RemoteAddr().String(),
			GoingAway:    newest.leaving,
			Pods:         uint32(len(newest.pods)),
			Capabilities: newest.capabilities,
		})
	}
	return out
}

func (ns *nodes) len() int {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return len(ns.all)
}

// goingAway has every agent told that this relay leaves.
func (ns *nodes) goingAway(farewell *controlv1.GoingAway) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for _, n := range ns.all {
		for _, t := range n.tunnels {
			t.announce(farewell)
		}
	}
}
