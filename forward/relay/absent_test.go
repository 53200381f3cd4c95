package relay

import (
	"testing"
	"testing/synctest"
	"time"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// TestLostNodesAreAwaited waits a moment for the agent of a pod to come back, where
// the caller has nowhere else to go, and for nobody who was not there.
func TestLostNodesAreAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ns := newNodes(4, time.Time{})
		ns.absent.grace = 2 * time.Second
		pods := report(true, "s/p=1")
		register := func() *tunnelTo {
			on := newTunnelTo(nil, &controlv1.Register{Node: "node1", Instance: "i"})
			if _, err := ns.add(on); err != nil {
				t.Fatal(err)
			}
			return on
		}
		locate := func(pod string) (stream.Code, time.Duration) {
			began := time.Now()
			_, err := ns.Locate(t.Context(), Identity{}, Target{Namespace: "s", Pod: pod})
			return stream.CodeOf(err), time.Since(began)
		}
		wants := func(what, pod string, code stream.Code, wait time.Duration) {
			t.Helper()
			if got, took := locate(pod); got != code || took != wait {
				t.Errorf("%s: %v after %v, want %v after %v", what, got, took, code, wait)
			}
		}
		on := register()
		_, _ = ns.change(on, pods)
		ns.remove(on)
		wants("the agent stays away", "p", stream.PodNotFound, 2*time.Second)
		wants("the agent has been away", "p", stream.PodNotFound, 0)

		on = register()
		_, _ = ns.change(on, pods)
		ns.remove(on)
		wants("a pod that never was", "other", stream.PodNotFound, 0)
		back := make(chan *tunnelTo, 1)
		go func() {
			time.Sleep(time.Second)
			ns.remove(register()) // it is lost before it has reported
			time.Sleep(time.Second)
			on := register()
			time.Sleep(time.Second / 2)
			_, _ = ns.change(on, pods)
			back <- on
		}()
		wants("the agent comes back at last", "p", 0, 2*time.Second+time.Second/2)
		on = <-back

		_, _ = ns.change(on, report(true))
		wants("the pod is gone and the agent here", "p", stream.PodNotFound, 0)
		_, _ = ns.change(on, pods)
		ns.elsewhere = func() bool { return true }
		ns.remove(on)
		wants("there are other relays", "p", stream.PodNotFound, 0)
		time.Sleep(time.Minute)
		if ns.awaited("node1", podName{}).After(time.Now()) || len(ns.absent.nodes)+len(ns.absent.pods)+len(ns.absent.queue) > 0 {
			t.Errorf("something is remembered for ever: %+v", ns.absent)
		}
	})
}
