package relay

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

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
	pods map[podName][]*pod // newest first
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

// tunnelTo is one registered tunnel.
type tunnelTo struct {
	sess      *tunnel.Session
	reg       *controlv1.Register
	since     time.Time
	leaving   bool
	pods      map[string]*pod // by UID
	announce  func(*controlv1.GoingAway)
	supersede bool // a newer instance has registered
}

func newNodes(maxPods int) *nodes {
	return &nodes{maxPods: maxPods, all: make(map[string]*node), pods: make(map[podName][]*pod)}
}

// add registers a tunnel. Tunnels of the same instance are a pool; those of an
// older one get no new streams any more, and keep what runs on them.
func (ns *nodes) add(t *tunnelTo) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := ns.all[t.reg.GetNode()]
	if n == nil {
		n = &node{name: t.reg.GetNode()}
		ns.all[n.name] = n
	}
	for _, old := range n.tunnels {
		if old.reg.GetInstance() != t.reg.GetInstance() {
			old.supersede = true
		}
	}
	t.pods = make(map[string]*pod)
	n.tunnels = slices.Insert(n.tunnels, 0, t)
}

// remove takes a tunnel and what it reported away; a node without tunnels is
// gone.
func (ns *nodes) remove(t *tunnelTo) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for uid := range t.pods {
		ns.drop(t, uid)
	}
	n := ns.all[t.reg.GetNode()]
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

// change takes an agent's report in.
func (ns *nodes) change(t *tunnelTo, c *controlv1.PodChanges) error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if c.GetFull() {
		for uid := range t.pods {
			ns.drop(t, uid)
		}
	}
	for _, uid := range c.GetRemoved() {
		ns.drop(t, uid)
	}
	for _, p := range c.GetUpsert() {
		if err := checkPod(p); err != nil {
			return err
		}
		ns.drop(t, p.GetUid())
		if len(t.pods) >= ns.maxPods {
			return fmt.Errorf("node %s reports more than %d pods", t.reg.GetNode(), ns.maxPods)
		}
		entry := &pod{Pod: p, on: t}
		p.Node = t.reg.GetNode()
		t.pods[p.GetUid()] = entry
		key := podName{p.GetNamespace(), p.GetName()}
		ns.pods[key] = append(ns.pods[key], entry)
		slices.SortStableFunc(ns.pods[key], newestFirst)
	}
	return nil
}

// newestFirst orders pods of one name: a reborn StatefulSet pod may be
// reported before its forerunner is taken back, perhaps from another node.
func newestFirst(a, b *pod) int {
	return cmp.Or(
		compareBool(a.on.supersede, b.on.supersede),
		b.GetCreated().AsTime().Compare(a.GetCreated().AsTime()),
	)
}

func checkPod(p *controlv1.Pod) error {
	switch {
	case p.GetUid() == "" || len(p.GetUid()) > stream.MaxUID:
		return fmt.Errorf("pod uid of %d bytes, 1 to %d are allowed", len(p.GetUid()), stream.MaxUID)
	case p.GetName() == "" || len(p.GetName()) > stream.MaxPod:
		return fmt.Errorf("pod name of %d bytes, 1 to %d are allowed", len(p.GetName()), stream.MaxPod)
	case p.GetNamespace() == "" || len(p.GetNamespace()) > stream.MaxNamespace:
		return fmt.Errorf("namespace of %d bytes, 1 to %d are allowed", len(p.GetNamespace()), stream.MaxNamespace)
	}
	return nil
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

// Locate finds a pod among those the agents reported.
func (ns *nodes) Locate(_ context.Context, _ Identity, t Target) (Place, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	found := ns.pods[podName{t.Namespace, t.Pod}]
	if len(found) == 0 {
		return Place{}, &stream.Error{
			Code: stream.PodNotFound,
			Text: fmt.Sprintf("no connected node reports a pod %s in namespace %s", t.Pod, t.Namespace),
		}
	}
	p := slices.MinFunc(found, newestFirst) // superseding may have changed the order since
	return Place{Node: p.GetNode(), UID: p.GetUid()}, nil
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

// goingAway tells every agent that this relay leaves.
func (ns *nodes) goingAway(reason string, grace time.Duration) {
	ns.mu.Lock()
	var tell []func(*controlv1.GoingAway)
	for _, n := range ns.all {
		for _, t := range n.tunnels {
			tell = append(tell, t.announce)
		}
	}
	ns.mu.Unlock()
	for _, f := range tell {
		f(goingAway(reason, grace))
	}
}
