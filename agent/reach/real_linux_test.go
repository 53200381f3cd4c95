package reach_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/netns/netnstest"
	"github.com/culvert-k8s/culvert/proto/stream"
	"github.com/culvert-k8s/culvert/test/lab"
)

// TestRemovedUnderADial has a real containerd remove pods while they are dialled all
// the time: each dial reaches the pod or is refused with a reason, none comes to
// whoever listens on that port on the agent's own localhost, and no namespace is
// held.
func TestRemovedUnderADial(t *testing.T) {
	programs := lab.RequireRuntime(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	rt, err := lab.StartContainerd(ctx, lab.ContainerdConfig{Runtime: programs, NetNS: netnstest.New(t).Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Errorf("close containerd: %v", err)
		}
	})
	source := sandbox.NewContainerd(sandbox.ContainerdConfig{Socket: rt.Socket()})
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); _ = source.Run(running) }()
	t.Cleanup(func() { stop(); <-done })
	local := &reach.Local{Source: source, Dialer: &reach.NetnsDialer{}}

	decoy := reachtest.Listen(t)
	port := reachtest.PortOf(decoy)
	var deceived atomic.Int32
	var lured sync.WaitGroup
	lured.Go(func() {
		for {
			c, err := decoy.Accept()
			if err != nil {
				return
			}
			deceived.Add(1)
			_ = c.Close()
		}
	})
	before := namespaces(t)
	for i := range 3 {
		pod, err := rt.RunPod(ctx, lab.PodConfig{Name: fmt.Sprintf("short-%d", i), Args: []string{"-echo", fmt.Sprint(port)}})
		if err != nil {
			t.Fatal(err)
		}
		dialUntilGone(ctx, t, rt, local, pod, port)
	}
	_ = decoy.Close()
	lured.Wait()
	if n := deceived.Load(); n > 0 {
		t.Errorf("%d dials came to the agent's own localhost", n)
	}
	for end := time.Now().Add(time.Minute); namespaces(t) > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d namespaces are held, %d before", namespaces(t), before)
		}
	}
}

// dialUntilGone removes the pod once it was reached, and dials on until it is gone.
func dialUntilGone(ctx context.Context, t *testing.T, rt *lab.Containerd, local *reach.Local, pod *lab.Pod, port uint16) {
	t.Helper()
	reached := make(chan struct{})
	once := sync.OnceFunc(func() { close(reached) })
	removed := make(chan struct{})
	var mu sync.Mutex
	answers := map[stream.Code]int{}
	var dialling sync.WaitGroup
	for range 8 {
		dialling.Go(func() {
			for {
				last := false
				select {
				case <-removed:
					last = true
				default:
				}
				one, cancel := context.WithTimeout(ctx, 10*time.Second)
				_, conn, err := local.Connect(one, pod.Config.UID, port)
				cancel()
				code := stream.OK
				if err == nil {
					once()
					_ = conn.Reset(nil)
				} else {
					code = stream.CodeOf(err)
				}
				if code == stream.Internal {
					t.Errorf("no reason is given: %v", err)
				}
				mu.Lock()
				answers[code]++
				mu.Unlock()
				if last {
					return
				}
			}
		})
	}
	select {
	case <-reached:
	case <-ctx.Done():
		t.Error("the pod was never reached")
	}
	if err := rt.RemovePod(ctx, pod); err != nil {
		t.Error(err)
	}
	close(removed)
	dialling.Wait()
	t.Logf("answers: %v", answers)
	if _, conn, err := local.Connect(ctx, pod.Config.UID, port); err == nil {
		_ = conn.Close()
		t.Error("a pod that is gone was reached")
	}
}

// namespaces counts those that this process holds open.
func namespaces(t *testing.T) int {
	t.Helper()
	const dir = "/proc/self/fd"
	open, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, entry := range open {
		target, _ := os.Readlink(filepath.Join(dir, entry.Name()))
		if strings.HasPrefix(target, "net:[") || strings.HasPrefix(target, "/") && strings.Contains(target, "netns") {
			n++
		}
	}
	return n
}
