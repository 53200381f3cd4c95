package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/netns/netnstest"
	"github.com/culvert-k8s/culvert/test/lab"
)

// patience is how long the tests wait for what comes within milliseconds on an
// idle machine.
const patience = 30 * time.Second

// node is a source that follows a real containerd.
type node struct {
	*Containerd
	t  *testing.T
	rt *lab.Containerd
}

func newNode(t *testing.T) *node { return startSource(t, startRuntime(t, false), "") }

// startRuntime starts a containerd, with the namespaces of its pods in its own
// directory or in the machine's.
func startRuntime(t *testing.T, inRun bool) *lab.Containerd {
	programs := lab.RequireRuntime(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	rt, err := lab.StartContainerd(ctx, lab.ContainerdConfig{Runtime: programs, NetNS: netnstest.New(t).Path(), NetNSInRun: inRun})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Errorf("close containerd: %v", err)
		}
	})
	return rt
}

// startSource follows rt until the test ends, and sees its namespaces in netnsDir.
func startSource(t *testing.T, rt *lab.Containerd, netnsDir string) *node {
	c := NewContainerd(ContainerdConfig{Socket: rt.Socket(), NetNSDir: netnsDir})
	running, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(running) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
	n := &node{Containerd: c, t: t, rt: rt}
	n.until("ready", c.Ready)
	return n
}

// until repeats check, after each change and now and then, until it succeeds.
func (n *node) until(what string, check func() error) {
	n.t.Helper()
	deadline := time.After(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-n.Changed():
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			n.t.Fatalf("%s: %v", what, err)
		}
	}
}

func (n *node) run(cfg lab.PodConfig) *lab.Pod {
	n.t.Helper()
	pod, err := n.rt.RunPod(n.t.Context(), cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	return pod
}

func (n *node) remove(pod *lab.Pod) {
	n.t.Helper()
	if err := n.rt.RemovePod(n.t.Context(), pod); err != nil {
		n.t.Fatal(err)
	}
}

// isAt says why the index does not have the pod at the namespace that the pod's
// first process is in, which the kernel tells.
func (n *node) isAt(pod *lab.Pod) error {
	found, err := n.Lookup(n.t.Context(), pod.Config.UID)
	if err != nil {
		return err
	}
	if found.Namespace != pod.Config.Namespace || found.Name != pod.Config.Name || found.HostNetwork || found.Created.IsZero() {
		return fmt.Errorf("pod is %+v", found)
	}
	want, err := os.Stat(pod.NetNS())
	if err != nil {
		return err
	}
	got, err := os.Stat(found.NetNS)
	if err != nil {
		return err
	}
	if !os.SameFile(want, got) {
		return fmt.Errorf("namespace is %s, which is not that of process %d", found.NetNS, pod.PID)
	}
	return nil
}

// listed says whether List has the UID.
func (n *node) listed(uid string) bool {
	for _, p := range n.List() {
		if p.UID == uid {
			return true
		}
	}
	return false
}

func (n *node) untilListed(uid string, want bool) {
	n.t.Helper()
	n.until(fmt.Sprintf("pod %s listed: %v", uid, want), func() error {
		if n.listed(uid) != want {
			return fmt.Errorf("pods are %v", n.List())
		}
		return nil
	})
}

func TestRealContainerd(t *testing.T) {
	n := newNode(t)
	for _, tc := range []struct {
		name string
		test func(t *testing.T, n *node)
	}{
		{"pods", realPods},
		{"host network", realHostNetwork},
		{"rebirth", realRebirth},
		{"sandbox made anew", realNewSandbox},
		{"restart", realRestart},
		{"crash and change meanwhile", realOutage},
		{"hang", realHang},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, &node{Containerd: n.Containerd, t: t, rt: n.rt}) })
	}
}

func realPods(t *testing.T, n *node) {
	web := n.run(lab.PodConfig{Namespace: "shop", Name: "web", Args: []string{"-echo", "7001"}})
	if err := n.isAt(web); err != nil { // at once, whatever the index has by now
		t.Error(err)
	}
	n.untilListed(web.Config.UID, true)
	db := n.run(lab.PodConfig{Namespace: "shop", Name: "db"})
	n.untilListed(db.Config.UID, true)
	n.remove(web)
	n.untilListed(web.Config.UID, false)
	if _, err := n.Lookup(t.Context(), web.Config.UID); !errors.Is(err, ErrNotFound) {
		t.Errorf("a removed pod: error %v", err)
	}
	if err := n.isAt(db); err != nil {
		t.Error(err)
	}
	if err := n.rt.StopPod(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if p, err := n.Lookup(t.Context(), db.Config.UID); err == nil {
		if _, err := os.Stat(p.NetNS); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("namespace of a stopped pod is still at %s: %v", p.NetNS, err)
		}
	}
	n.remove(db)
	n.untilListed(db.Config.UID, false)
}

func realHostNetwork(t *testing.T, n *node) {
	pod := n.run(lab.PodConfig{Name: "host", HostNetwork: true})
	p, err := n.Lookup(t.Context(), pod.Config.UID)
	if err != nil || !p.HostNetwork || p.NetNS != "" {
		t.Errorf("pod %+v, error %v", p, err)
	}
	n.remove(pod)
}

// realRebirth is what a StatefulSet does: the same name, another UID.
func realRebirth(t *testing.T, n *node) {
	first := n.run(lab.PodConfig{Name: "db-0", UID: "first"})
	n.untilListed("first", true)
	n.remove(first)
	second := n.run(lab.PodConfig{Name: "db-0", UID: "second"})
	n.untilListed("second", true)
	n.untilListed("first", false)
	if err := n.isAt(second); err != nil {
		t.Error(err)
	}
	if _, err := n.Lookup(t.Context(), "first"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the first pod: error %v", err)
	}
	n.remove(second)
}

// realNewSandbox kills the process that keeps a sandbox alive; a kubelet then
// makes another sandbox for the same pod, and removes the dead one later.
func realNewSandbox(t *testing.T, n *node) {
	first := n.run(lab.PodConfig{Name: "web", UID: "same"})
	if err := n.isAt(first); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := n.run(lab.PodConfig{Name: "web", UID: "same", Attempt: 1})
	n.until("the second sandbox", func() error { return n.isAt(second) })
	n.remove(first)
	if err := n.isAt(second); err != nil {
		t.Error(err)
	}
	// A third that dies while the second still lives must not win.
	third := n.run(lab.PodConfig{Name: "web", UID: "same", Attempt: 2})
	n.until("the third sandbox", func() error { return n.isAt(third) })
	if err := n.rt.StopPod(t.Context(), third); err != nil {
		t.Fatal(err)
	}
	n.until("the second sandbox again", func() error { return n.isAt(second) })
	// One who comes only now has seen no event and must ask after the tasks.
	if err := startSource(t, n.rt, "").isAt(second); err != nil {
		t.Errorf("for a new follower: %v", err)
	}
	n.remove(third)
	n.remove(second)
}

func realRestart(t *testing.T, n *node) {
	before := n.run(lab.PodConfig{Name: "before"})
	n.untilListed(before.Config.UID, true)
	if err := n.rt.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := n.run(lab.PodConfig{Name: "after"})
	n.untilListed(after.Config.UID, true)
	n.until("ready again", n.Ready)
	for _, pod := range []*lab.Pod{before, after} {
		if err := n.isAt(pod); err != nil {
			t.Error(err)
		}
		n.remove(pod)
		n.untilListed(pod.Config.UID, false)
	}
}

func realOutage(t *testing.T, n *node) {
	pod := n.run(lab.PodConfig{Name: "stays"})
	n.untilListed(pod.Config.UID, true)
	if err := n.rt.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := n.rt.Halt(); err == nil {
		t.Error("a killed containerd ended without error")
	}
	n.until("not ready", func() error {
		if n.Ready() == nil {
			return errors.New("ready without containerd")
		}
		return nil
	})
	if err := n.isAt(pod); err != nil {
		t.Errorf("a known pod, without containerd: %v", err)
	}
	if _, err := n.Lookup(t.Context(), "unknown"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("an unknown pod, without containerd: %v", err)
	}
	if err := n.rt.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.remove(pod)
	n.untilListed(pod.Config.UID, false)
	n.until("ready again", n.Ready)
}

// realHang stops containerd without ending it: connections stay, answers do not
// come.
func realHang(t *testing.T, n *node) {
	pod := n.run(lab.PodConfig{Name: "web"})
	n.untilListed(pod.Config.UID, true)
	if err := n.rt.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer n.remove(pod)
	defer n.rt.Signal(syscall.SIGCONT)
	if err := n.isAt(pod); err != nil {
		t.Errorf("a known pod: %v", err)
	}
	if _, err := n.Lookup(t.Context(), "unknown"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("an unknown pod: %v", err)
	}
}

// TestRealMounted finds a pod as an agent in a container does: the directory of
// the namespaces is mounted under another name, and the runtime knows nothing of
// it.
func TestRealMounted(t *testing.T) {
	rt := startRuntime(t, true)
	pod, err := rt.RunPod(t.Context(), lab.PodConfig{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := syscall.Mount("/run/netns", dir, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	if err := syscall.Mount("", dir, "", syscall.MS_SLAVE|syscall.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	n := startSource(t, rt, dir)
	if err := n.isAt(pod); err != nil {
		t.Error(err)
	}
	if p, err := n.Lookup(t.Context(), pod.Config.UID); err != nil || filepath.Dir(p.NetNS) != dir {
		t.Errorf("pod %+v, %v", p, err)
	}
	n.remove(pod)
	n.untilListed(pod.Config.UID, false)
}
