//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/cluster"
)

// changes are rows about pods that come and go. Each scene has workloads of its
// own.
func changes() []behaviour {
	return []behaviour{
		{"a pod that is made again under its name is found by the next connection", reborn, stock, "the stock path keeps to the sandbox it began with"},
		{"a deployment that is rolled out is reached on the same local port", rolled, notNative, "kubectl chooses a pod once, before it asks anybody"},
		{"a pod that is deleted for good ends kubectl; culvert goes on to listen", deleted, everywhere, ""},
	}
}

// workload is one echo for each replica; extra is what its kind wants beside that.
func workload(kind, name string, replicas int, extra string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: %[1]s
metadata: {name: %[2]s, namespace: default}
spec:
  replicas: %[3]d
  %[4]s
  selector: {matchLabels: {app: %[2]s}}
  template:
    metadata: {labels: {app: %[2]s}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: %[5]s, imagePullPolicy: Never, args: ["-echo", "8011"]}]
`, kind, name, replicas, extra, cluster.ToolboxImage)
}

func statefulSet(name string) string { return workload("StatefulSet", name, 1, "serviceName: "+name) }

func deployment(name string, replicas int) string { return workload("Deployment", name, replicas, "") }

func (s *scene) apply(ctx context.Context, manifest string, kind, name string) error {
	if err := s.cluster.Apply(ctx, manifest); err != nil {
		return err
	}
	_, err := s.cluster.Kubectl(ctx, "rollout", "status", kind+"/"+name, "--timeout=60s")
	return err
}

// podOf returns the name of the pod of a deployment that has one.
func (s *scene) podOf(ctx context.Context, name string) (string, error) {
	return s.cluster.Kubectl(ctx, "get", "pod", "-l", "app="+name, "-o", "jsonpath={.items[0].metadata.name}")
}

// again tries until a new connection is served.
func (f *forwarding) again(ctx context.Context, limit time.Duration) error {
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		err := f.serves(ctx, 0)
		if err == nil || time.Since(began) > limit {
			return err
		}
	}
}

func reborn(ctx context.Context, s *scene) error {
	name := "reborn-" + s.id
	if err := s.apply(ctx, statefulSet(name), "statefulset", name); err != nil {
		return err
	}
	f, err := s.forward(ctx, "pod/"+name+"-0", portEcho)
	if err != nil {
		return err
	}
	defer f.Kill()
	if err := f.serves(ctx, 0); err != nil {
		return err
	}
	if _, err := s.cluster.Kubectl(ctx, "delete", "pod", name+"-0"); err != nil {
		return err
	}
	if _, err := s.cluster.Kubectl(ctx, "rollout", "status", "statefulset/"+name, "--timeout=60s"); err != nil {
		return err
	}
	return f.again(ctx, prompt)
}

func rolled(ctx context.Context, s *scene) error {
	name := "rolled-" + s.id
	if err := s.apply(ctx, deployment(name, 1), "deployment", name); err != nil {
		return err
	}
	f, err := s.forward(ctx, "deployment/"+name, portEcho)
	if err != nil {
		return err
	}
	defer f.Kill()
	if err := f.serves(ctx, 0); err != nil {
		return err
	}
	old, err := s.podOf(ctx, name)
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"rollout", "restart", "deployment/" + name},
		{"rollout", "status", "deployment/" + name, "--timeout=60s"},
		{"wait", "--for=delete", "pod/" + old, "--timeout=60s"}, // while it ends it still serves
	} {
		if _, err := s.cluster.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	return f.again(ctx, prompt)
}

func deleted(ctx context.Context, s *scene) error {
	name := "deleted-" + s.id
	if err := s.apply(ctx, deployment(name, 1), "deployment", name); err != nil {
		return err
	}
	pod, err := s.podOf(ctx, name)
	if err != nil {
		return err
	}
	return s.connected(ctx, "pod/"+pod, []int{portEcho}, func(f *forwarding, conn *net.TCPConn) error {
		if err := exchange(conn, "before", patience); err != nil {
			return err
		}
		if _, err := s.cluster.Kubectl(ctx, "delete", "deployment", name); err != nil {
			return err
		}
		if err := ends(conn, patience); err != nil {
			return err
		}
		if s.native {
			time.Sleep(time.Second)
			if !f.alive() {
				return fmt.Errorf("it has ended: %s", said(f.Process))
			}
			return nil
		}
		// kubectl hears it at the latest when the next one connects.
		for began := time.Now(); f.alive(); time.Sleep(200 * time.Millisecond) {
			if time.Since(began) > 90*time.Second {
				return fmt.Errorf("it still runs: %s", said(f.Process))
			}
			if next, err := f.dial(ctx, 0); err == nil {
				_ = ends(next, time.Second)
				next.Close()
			}
		}
		return nil
	})
}

// updates rolls agents and relays while forwards are in use.
func updates(t *testing.T, r *rig) {
	for _, tt := range []struct{ name, namespace, workload string }{
		{"agents", agentSpace, "daemonset/culvert-agent"},
		{"relays", relaySpace, "deployment/culvert-relay"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var all sync.WaitGroup
			ctx, stop := context.WithCancel(t.Context())
			for _, w := range r.ways(t) {
				if !w.culvert || tt.name == "relays" && !w.native {
					continue // a session of kubectl ends with its relay
				}
				f, err := w.forward(t.Context(), "pod/inner", portEcho)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Kill()
				all.Go(func() { load(ctx, t, f) })
			}
			if _, err := r.Kubectl(t.Context(), "rollout", "restart", "-n", tt.namespace, tt.workload); err != nil {
				t.Fatal(err)
			}
			r.await(t, tt.namespace, tt.workload)
			time.Sleep(5 * time.Second) // what is on its way out drains
			stop()
			all.Wait()
		})
	}
}

// load makes one connection after the other until ctx ends, and claims that all
// are served.
func load(ctx context.Context, t *testing.T, f *forwarding) {
	var well, failed atomic.Int64
	var last error
	for ctx.Err() == nil {
		if err := f.serves(context.WithoutCancel(ctx), 0); err != nil {
			failed.Add(1)
			last = err
			time.Sleep(100 * time.Millisecond)
			continue
		}
		well.Add(1)
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("%s: %d connections served, %d not, the last for %v", f.way.name, well.Load(), failed.Load(), last)
	if failed.Load() > 0 {
		t.Errorf("%s: %d of %d connections failed, the last with: %v", f.way.name, failed.Load(), well.Load()+failed.Load(), last)
	}
}

// drained empties a node under a forward of culvert to a deployment.
func drained(t *testing.T, r *rig) {
	if err := r.Apply(t.Context(), deployment("moved", 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Kubectl(t.Context(), "rollout", "status", "deployment/moved", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	ways := r.ways(t)
	f, err := ways[len(ways)-1].forward(t.Context(), "deployment/moved", portEcho)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Kill()
	for _, node := range []string{"node2", "node1"} { // the pod is on one of them
		out, err := r.Kubectl(t.Context(), "drain", node, "--ignore-daemonsets", "--force", "--delete-emptydir-data",
			"--pod-selector=app=moved", "--timeout=60s")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err := f.again(t.Context(), patience); err != nil {
			t.Errorf("after %s was drained: %v; it said %s", node, err, said(f.Process))
		}
		if _, err := r.Kubectl(t.Context(), "uncordon", node); err != nil {
			t.Fatal(err)
		}
	}
}
