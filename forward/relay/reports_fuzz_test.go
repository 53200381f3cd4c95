package relay

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// Whatever an agent reports, it is bounded, touches nobody else's pods, and is gone
// with its tunnel.
func FuzzReports(f *testing.F) {
	for _, c := range []*controlv1.PodChanges{
		report(true, "a/b=1"), report(false, "a/b=1", "a/b=2", "a/c=3"), {Removed: []string{"1", "mine"}}, {Full: true},
		{Upsert: []*controlv1.Pod{{Namespace: "shop", Name: "web", Uid: "mine"}}},
	} {
		b, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b)
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		const most = 4
		ns := newNodes(most, time.Time{})
		other := newTunnelTo(nil, &controlv1.Register{Node: "other", Instance: "i"})
		bad := newTunnelTo(nil, &controlv1.Register{Node: "bad", Instance: "i"})
		ns.add(other)
		ns.add(bad)
		if _, err := ns.change(other, report(true, "shop/web=mine")); err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{one, two} {
			var c controlv1.PodChanges
			if proto.Unmarshal(b, &c) != nil {
				continue
			}
			_, _ = ns.change(bad, &c)
			if len(bad.pods) > most {
				t.Fatalf("%d pods of one node", len(bad.pods))
			}
		}
		if other.pods["mine"] == nil || len(other.pods) != 1 {
			t.Fatal("another node's pod is gone")
		}
		ns.remove(bad)
		if len(ns.pods) != 1 || len(ns.pods[podName{"shop", "web"}]) != 1 {
			t.Fatalf("left behind: %v", ns.pods)
		}
	})
}
