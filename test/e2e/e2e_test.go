//go:build linux

package e2e

import (
	"context"
	"os"
	"testing"

	"github.com/culvert-k8s/culvert/test/cluster"
)

// TestEndToEnd installs Culvert once and goes through everything on that cluster.
func TestEndToEnd(t *testing.T) {
	if os.Getenv("CULVERT_TEST_CLUSTER") != "required" {
		t.Skip("takes minutes: make e2e runs it")
	}
	c := cluster.ForTest(t, cluster.Config{DNS: true})
	if err := c.ImportToolbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := install(t, c)
	r.applyPods(t)
	t.Run("wire", func(t *testing.T) { wire(t, r) })
	t.Run("rights", func(t *testing.T) { rights(t, r) })
	t.Run("native", func(t *testing.T) { native(t, r) })
	t.Run("audit", func(t *testing.T) { audited(t, r) })
	t.Run("everything else", func(t *testing.T) { passes(t, r) })
	t.Run("compatibility", func(t *testing.T) { compatibility(t, r) })
	t.Run("updates", func(t *testing.T) { updates(t, r) })
	t.Run("private", func(t *testing.T) { private(t, r) })
	t.Run("drained", func(t *testing.T) { drained(t, r) })
}

// pods are what the behaviours are tried with: one has all its ports on its
// localhost, the other on all addresses.
const pods = `
apiVersion: v1
kind: Pod
metadata: {name: inner, labels: {app: inner}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: ` + cluster.ToolboxImage + `
    imagePullPolicy: Never
    args: ["-tester", "8001,abc", "-tester", "8002", "-late", "8003,3s", "-reset", "8005,4", "-source", "8006,67108864",
      "-sink", "8007", "-stall", "8008", "-echo", "[::1]:8009", "-echo", "8011", "-http", "8080"]
---
apiVersion: v1
kind: Pod
metadata: {name: outer, labels: {app: outer}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: ` + cluster.ToolboxImage + `
    imagePullPolicy: Never
    args: ["-tester", "0.0.0.0:8001,abc", "-tester", "0.0.0.0:8002", "-http", "0.0.0.0:8080"]
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: host}}
spec:
  nodeName: node1
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: ` + cluster.ToolboxImage + `
    imagePullPolicy: Never
    args: ["-echo", "18011"]
`

func (r *rig) applyPods(t *testing.T) {
	t.Helper()
	if err := r.Apply(t.Context(), pods); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Kubectl(t.Context(), "wait", "--for=condition=Ready", "pod/inner", "pod/outer", "pod/host", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
}

// podLog returns what a pod has printed.
func (r *rig) podLog(ctx context.Context, pod string) (string, error) {
	return r.Kubectl(ctx, "logs", pod)
}
