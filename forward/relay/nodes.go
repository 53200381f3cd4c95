package relay

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// nodes knows which node is reached over which tunnels, and which pods the
// agents say they have. It touches memory only: nobody waits under its lock.
type nodes struct {
	maxPods int

	mu   sync.Mutex
	all  map[string]*node
	pods map[podName][]*pod

	// A relay that has just started knows nothing: until settled an unknown pod
	// is waited for, and changed is closed at each report.
	settled time.Time
	changed chan struct{}
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
func (ns *nodes) taken(t *tunnelTo) bool {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.takenLocked(t)
}

func (ns *nodes) takenLocked(t *tunnelTo) bool {
	n := ns.all[t.node]
	return n != nil && t.byCert && slices.ContainsFunc(n.tunnels, func(o *tunnelTo) bool { return !o.byCert })
}

// add registers a tunnel. Tunnels of the same instance are a pool; those of an
// older one get no new streams any more, and keep what runs on them. It is false if
// the name is taken.
func (ns *nodes) add(t *tunnelTo) bool {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.takenLocked(t) {
		return false
	}
	n := ns.all[t.node]
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
	return true
}

// remove takes a tunnel and what it reported away; a node without tunnels is
// gone.
func (ns *nodes) remove(t *tunnelTo) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	t.removed = true
	for uid := range t.pods {
		ns.drop(t, uid)
	}
	n := ns.all[t.node]
	if n == nil {
		return
	}
	n.tunnels = slices.DeleteFunc(n.tunnels, func(o *tunnelTo) bool { return o == t })
	if len(n.tunnels) == 0 {
		delete(ns.all, n.name)
	}
}

// leaving marks a tunnel whose agent is going away.
func (ns *nodes) leaving(t *tunnelTo) {
	ns.mu.Lock()
	t.leaving = true
	ns.mu.Unlock()
}

// tunnels returns the ways to a node, best first: of the newest instance those
// that stay before those that leave, the less busy first, then what an older
// instance has left.
func (ns *nodes) tunnels(name string) []*tunnelTo {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := ns.all[name]
	if n == nil {
		return nil
	}
	ts := slices.Clone(n.tunnels)
	slices.SortStableFunc(ts, func(a, b *tunnelTo) int {
		return cmp.Or(
			compareBool(a.supersede, b.supersede),
			compareBool(a.leaving, b.leaving),
			cmp.Compare(a.sess.NumStreams(), b.sess.NumStreams()),
		)
	})
	return ts
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

// change takes an agent's report in. rival is a pod of the same name that
// another node reports too, if there is one.
func (ns *nodes) change(t *tunnelTo, c *controlv1.PodChanges) (rival *controlv1.Pod, err error) {
	upsert := make([]*pod, len(c.GetUpsert()))
	for i, p := range c.GetUpsert() {
		if upsert[i], err = checkPod(t, p); err != nil {
			return nil, err
		}
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if t.removed {
		return nil, nil //nolint:nilnil // a report that came too late says nothing
	}
	if c.GetFull() {
		for uid := range t.pods {
			ns.drop(t, uid)
		}
	}
	for _, uid := range c.GetRemoved() {
		ns.drop(t, uid)
	}
	for _, p := range upsert {
		ns.drop(t, p.GetUid())
		if len(t.pods) >= ns.maxPods {
			return nil, fmt.Errorf("node %s reports more than %d pods", t.node, ns.maxPods)
		}
		t.pods[p.GetUid()] = p
		key := podName{p.GetNamespace(), p.GetName()}
		for _, o := range ns.pods[key] {
			if o.on.node != t.node && o.GetUid() != p.GetUid() {
				rival = o.Pod
			}
		}
		ns.pods[key] = append(ns.pods[key], p)
	}
	close(ns.changed)
	ns.changed = make(chan struct{})
	return rival, nil
}

// newestFirst orders pods of one name: a reborn StatefulSet pod may be
// reported before its forerunner is taken back, perhaps from another node.
func newestFirst(a, b *pod) int {
	return cmp.Or(
		compareBool(a.on.supersede, b.on.supersede),
		b.GetCreated().AsTime().Compare(a.GetCreated().AsTime()),
	)
}

// checkPod copies what is known of a reported pod. One that could not be asked
// for by its name is refused, so nothing a terminal must not see gets to
// clients either. A pod from the future counts as new and no more.
func checkPod(t *tunnelTo, p *controlv1.Pod) (*pod, error) {
	_, err := stream.AppendOpen(nil, &stream.Open{
		Kind: stream.KindForward, Port: 1, Namespace: p.GetNamespace(), Pod: p.GetName(), UID: p.GetUid(),
	})
	if err == nil && (p.GetNamespace() == "" || p.GetName() == "" || p.GetUid() == "") {
		err = errors.New("namespace, name or uid is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("report of a pod: %w", err)
	}
	created, now := p.GetCreated().AsTime(), time.Now()
	if created.After(now) {
		created = now
	}
	return &pod{on: t, Pod: &controlv1.Pod{
		Namespace: p.GetNamespace(), Name: p.GetName(), Uid: p.GetUid(), HostNetwork: p.GetHostNetwork(),
		Created: timestamppb.New(created), Node: t.node,
	}}, nil
}

func (ns *nodes) drop(t *tunnelTo, uid string) {
	p := t.pods[uid]
	if p == nil {
		return
	}
	delete(t.pods, uid)
	key := podName{p.GetNamespace(), p.GetName()}
	left := slices.DeleteFunc(ns.pods[key], func(o *pod) bool { return o == p })
	if len(left) == 0 {
		delete(ns.pods, key)
		return
	}
	ns.pods[key] = left
}

// listPods returns the reported pods of a namespace ("" for all), one for each
// UID, sorted.
func (ns *nodes) listPods(namespace string) []*controlv1.Pod {
	ns.mu.Lock()
	seen := make(map[string]*controlv1.Pod)
	for key, pods := range ns.pods {
		if namespace == "" || key.namespace == namespace {
			for _, p := range pods {
				seen[p.GetUid()] = p.Pod
			}
		}
	}
	ns.mu.Unlock()
	out := make([]*controlv1.Pod, 0, len(seen))
	for _, p := range seen {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *controlv1.Pod) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetUid(), b.GetUid()))
	})
	return out
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

// goingAway tells every agent that this relay leaves.
func (ns *nodes) goingAway(reason string, grace time.Duration) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for _, n := range ns.all {
		for _, t := range n.tunnels {
			t.announce(goingAway(reason, grace))
		}
	}
}
