package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func locate(t *testing.T, ns *nodes, pod string) string {
	t.Helper()
	n, p, _ := strings.Cut(pod, "/")
	place, err := ns.Locate(t.Context(), Identity{}, Target{Namespace: n, Pod: p})
	if errors.Is(err, &stream.Error{Code: stream.PodNotFound}) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	return place.Node + " " + place.UID
}

func change(t *testing.T, ns *nodes, tun *tunnelTo, c *controlv1.PodChanges) (rival string) {
	t.Helper()
	r, err := ns.change(tun, c)
	if err != nil {
		t.Fatal(err)
	}
	if r == nil {
		return ""
	}
	return r.GetNode()
}

func plainTunnel(ns *nodes, node, instance string) *tunnelTo {
	tun := newTunnelTo(nil, &controlv1.Register{Node: node, Instance: instance})
	ns.add(tun)
	return tun
}

func TestReports(t *testing.T) {
	ns := newNodes(4, time.Time{})
	a := plainTunnel(ns, "a", "1")
	change(t, ns, a, report(true, "shop/web=1", "shop/db=2"))
	if got := locate(t, ns, "shop/web"); got != "a 1" {
		t.Error(got)
	}
	change(t, ns, a, &controlv1.PodChanges{Removed: []string{"1", "unknown"}})
	if got := locate(t, ns, "shop/web"); got != "none" {
		t.Error(got)
	}
	change(t, ns, a, report(true, "shop/web=3"))
	if got := locate(t, ns, "shop/db"); got != "none" {
		t.Error("a full report does not name it, and yet it is there:", got)
	}
	change(t, ns, a, report(false, "shop/web=3")) // again
	if n := len(ns.pods[podName{"shop", "web"}]); n != 1 {
		t.Errorf("%d entries for one pod", n)
	}
	if _, err := ns.change(a, report(false, "s/1=4", "s/2=5", "s/3=6", "s/4=7")); err == nil {
		t.Error("more pods than the limit were taken")
	}
	ns.remove(a)
	change(t, ns, a, report(true, "shop/web=3")) // read before, taken in after its tunnel
	if len(ns.all)+len(ns.pods)+len(a.pods) != 0 {
		t.Errorf("left: %v %v %v", ns.all, ns.pods, a.pods)
	}
}

func TestHostileReports(t *testing.T) {
	for name, p := range map[string]*controlv1.Pod{
		"no uid":         {Namespace: "s", Name: "p"},
		"no name":        {Namespace: "s", Uid: "1"},
		"no namespace":   {Name: "p", Uid: "1"},
		"long uid":       {Namespace: "s", Name: "p", Uid: strings.Repeat("u", stream.MaxUID+1)},
		"long name":      {Namespace: "s", Name: strings.Repeat("p", stream.MaxPod+1), Uid: "1"},
		"long namespace": {Namespace: strings.Repeat("s", stream.MaxNamespace+1), Name: "p", Uid: "1"},
		"escape codes":   {Namespace: "s", Name: "p\x1b[2J", Uid: "1"},
		"nothing":        nil,
	} {
		t.Run(name, func(t *testing.T) {
			ns := newNodes(4, time.Time{})
			a := plainTunnel(ns, "a", "1")
			if _, err := ns.change(a, &controlv1.PodChanges{Upsert: []*controlv1.Pod{{Namespace: "s", Name: "good", Uid: "0"}, p}}); err == nil {
				t.Error("it was taken")
			}
			if len(a.pods) != 0 {
				t.Error("a part of a bad report was taken")
			}
		})
	}
}

// The newest pod of a name wins, whoever reports it; a pod from the future is
// new and no more, and of two nodes that claim one name the log hears.
func TestTwoNodesReportOnePod(t *testing.T) {
	ns := newNodes(4, time.Time{})
	a, b, c := plainTunnel(ns, "a", "1"), plainTunnel(ns, "b", "1"), plainTunnel(ns, "c", "1")
	at := func(uid string, when time.Time) *controlv1.PodChanges {
		return &controlv1.PodChanges{Upsert: []*controlv1.Pod{{
			Namespace: "s", Name: "p", Uid: uid, Created: timestamppb.New(when), Node: "a lie",
		}}}
	}
	now := time.Now()
	if rival := change(t, ns, b, at("new", now.Add(-time.Minute))); rival != "" {
		t.Error("a rival where there is none:", rival)
	}
	if rival := change(t, ns, a, at("old", now.Add(-time.Hour))); rival != "b" {
		t.Errorf("rival %q", rival)
	}
	if got := locate(t, ns, "s/p"); got != "b new" {
		t.Error(got)
	}
	change(t, ns, c, at("future", now.Add(1000*time.Hour)))
	ns.remove(c)
	d := plainTunnel(ns, "d", "1")
	change(t, ns, d, at("newest", time.Now()))
	change(t, ns, a, at("old", now.Add(500*time.Hour))) // pretends, and yet was first
	if p := a.pods["old"]; p.GetCreated().AsTime().After(time.Now()) {
		t.Error("a pod from the future")
	}
	ns.remove(a)
	ns.remove(d)
	if got := locate(t, ns, "s/p"); got != "b new" {
		t.Error(got)
	}
}

func TestNewestInstanceServes(t *testing.T) {
	r := newRig(t, Config{})
	client := r.client()
	old, oldTun := r.node("node-a")
	r.report(oldTun, "shop/web=uid-1")
	running := r.forward(client, old)

	join := func(instance string) (*link, *tunnelTo) {
		l := r.connect(Identity{Role: RoleNode, Name: "node-a"}, tunnel.Config{})
		l.peer.attends.Store(registered)
		tun := newTunnelTo(l.near, &controlv1.Register{Node: "node-a", Instance: instance})
		r.s.nodes.add(tun)
		r.report(tun, "shop/web=uid-1")
		return l, tun
	}
	serves := func(what string, want *link) {
		t.Helper()
		c := client.ask("shop", "web")
		a, _ := want.accept()
		answer(t, a, stream.Policy, "not now")
		if _, err := stream.ReadReply(c); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		_ = c.Close()
		_ = a.Close()
	}
	lose := func(l *link) {
		_ = l.raw.Close()
		<-l.near.Done() // what is opened before the relay has noticed is lost with it
	}
	fresh, freshTun := join("new")
	serves("the new instance", fresh)
	sibling(t, running)

	second, _ := join("new")
	r.s.nodes.leaving(freshTun)
	serves("the tunnel that stays", second)

	lose(second)
	serves("the tunnel that leaves, when the other is lost", fresh)
	lose(fresh)
	serves("the old instance, when the new is gone", old)
	lose(old)
	c := client.ask("shop", "web")
	if reply, err := stream.ReadReply(c); err != nil || reply.Code != stream.AgentOffline {
		t.Errorf("reply %+v, %v", reply, err)
	}
	_ = c.Close()
	r.quiet(client)
}

func TestNodeIsFull(t *testing.T) {
	r := newRig(t, Config{Tunnel: tunnel.Config{MaxStreams: 3}})
	node, tun := r.node("node-a")
	r.report(tun, "shop/web=uid-1")
	one, two := r.client(), r.client()
	var pairs []pair
	for range 3 {
		pairs = append(pairs, r.forward(one, node))
	}
	c := two.ask("shop", "web")
	if reply, err := stream.ReadReply(c); err != nil || reply.Code != stream.Overloaded {
		t.Errorf("reply %+v, %v", reply, err)
	}
	_ = c.Close()
	for _, p := range pairs {
		sibling(t, p)
	}
	r.quiet(one, two, node)
	sibling(t, r.forward(two, node))
}

// Everything at once, for the race detector.
func TestNodesConcurrently(t *testing.T) {
	r := newRig(t, Config{})
	_, tun := r.node("node-a")
	ns := r.s.nodes
	var all sync.WaitGroup
	stop := make(chan struct{})
	loop := func(f func(i int)) {
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					f(i)
				}
			}
		})
	}
	loop(func(i int) { _, _ = ns.change(tun, report(i%3 == 0, fmt.Sprintf("s/p%d=%d", i%7, i%7))) })
	loop(func(i int) {
		o := newTunnelTo(tun.sess, &controlv1.Register{Node: "node-b", Instance: fmt.Sprint(i)})
		ns.add(o)
		_, _ = ns.change(o, report(true, "s/p1=1"))
		ns.leaving(o)
		ns.remove(o)
	})
	loop(func(int) {
		for _, p := range ns.listPods("") {
			_ = p.GetName() + p.GetNode() + p.GetCreated().String()
		}
	})
	loop(func(int) { ns.list(); ns.len(); _, _ = ns.tunnels("node-b"); ns.goingAway(&controlv1.GoingAway{}) })
	loop(func(int) {
		_, _ = ns.Locate(context.Background(), Identity{}, Target{Namespace: "s", Pod: "p1"})
	})
	time.Sleep(50 * time.Millisecond)
	close(stop)
	all.Wait()
}

func TestAFreshRelayWaitsForItsAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ns := newNodes(4, time.Now().Add(5*time.Second))
		began := time.Now()
		on := &tunnelTo{node: "node1", pods: make(map[string]*pod)}
		go func() {
			time.Sleep(time.Second)
			_, _ = ns.change(on, &controlv1.PodChanges{Upsert: []*controlv1.Pod{{Namespace: "s", Name: "other", Uid: "0"}}})
			time.Sleep(time.Second)
			_, _ = ns.change(on, &controlv1.PodChanges{Upsert: []*controlv1.Pod{{Namespace: "s", Name: "p", Uid: "1"}}})
		}()
		place, err := ns.Locate(t.Context(), Identity{}, Target{Namespace: "s", Pod: "p"})
		if err != nil || place.UID != "1" || time.Since(began) != 2*time.Second {
			t.Errorf("%+v, %v after %s", place, err, time.Since(began))
		}
		ns.elsewhere = func() bool { return true }
		_, err = ns.Locate(t.Context(), Identity{}, Target{Namespace: "s", Pod: "nowhere"})
		if stream.CodeOf(err) != stream.PodNotFound || time.Since(began) != 3*time.Second {
			t.Errorf("unknown pod, and another relay might know it: %v after %s", err, time.Since(began))
		}
		ns.elsewhere = nil
		_, err = ns.Locate(t.Context(), Identity{}, Target{Namespace: "s", Pod: "nowhere"})
		if stream.CodeOf(err) != stream.PodNotFound || time.Since(began) != 5*time.Second {
			t.Errorf("unknown pod: %v after %s", err, time.Since(began))
		}
		if _, err = ns.Locate(t.Context(), Identity{}, Target{Namespace: "s", Pod: "nowhere"}); err == nil || time.Since(began) != 5*time.Second {
			t.Errorf("a settled relay waited until %s: %v", time.Since(began), err)
		}
	})
}
