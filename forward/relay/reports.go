package relay

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

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
		ns.absent.back(t.node)
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
	ns.announce()
	return rival, nil
}

// announce wakes those who wait for a node or a pod. mu is held.
func (ns *nodes) announce() {
	close(ns.changed)
	ns.changed = make(chan struct{})
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
