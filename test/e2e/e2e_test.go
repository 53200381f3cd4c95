//go:build linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/test/cluster"
	"github.com/culvert-k8s/culvert/test/lab"
)

// pods are what the behaviours are tried with. Each has its ports in one network
// namespace: one on its localhost, the other on all addresses.
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
`

// TestStock is only here until the rest is.
func TestStock(t *testing.T) {
	cluster.Require(t)
	c := cluster.ForTest(t, cluster.Config{DNS: true})
	if err := c.ImportToolbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), pods); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), "wait", "--for=condition=Ready", "pod/inner", "pod/outer", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	scenes := []*scene{
		{way: way{name: "kubectl 1.36", on: c.Client.Namespace, command: func(args ...string) lab.Command { return c.KubectlCommand(c.AdminKubeconfig, args...) }}},
		{way: way{name: "kubectl 1.29", on: c.Client.Namespace, command: func(args ...string) lab.Command { return c.OldKubectlCommand(c.AdminKubeconfig, args...) }}},
	}
	for _, s := range scenes {
		s.pod, s.open = "pod/inner", "pod/outer"
		s.logs = func(ctx context.Context, pod string) (string, error) {
			return c.Kubectl(ctx, "logs", strings.TrimPrefix(pod, "pod/"))
		}
	}
	fmt.Println(compare(t, "Kubernetes' own tests", upstream(), scenes).markdown())
	fmt.Println(compare(t, "What they do not look at", gaps(), scenes).markdown())
}
