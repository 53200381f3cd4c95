//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/cluster"
	"github.com/culvert-k8s/culvert/test/lab"
)

const (
	registry   = "ghcr.io/culvert-k8s"
	relayPort  = "31443" // on every node
	relaySpace = "culvert-system"
	agentSpace = "culvert-agent"
)

// rig is a cluster with Culvert in it.
type rig struct {
	*cluster.Cluster
	dir     string // for files
	culvert string // the client program
	relay   string // host:port, as clients outside of the cluster have it
}

// values are those of the chart: a relay that is reached from outside, which takes
// little time to go.
func values(relay string) string {
	return fmt.Sprintf(`
namespaces: {createRelease: true}
relay:
  externalAddress: "%s"
  service: {type: NodePort, nodePort: %s}
  drainSeconds: 30
  preStopSeconds: 2
agent:
  drainSeconds: 30
`, relay, relayPort)
}

// install builds images and chart, brings them to the cluster, and returns when
// relay and agents are ready. The images have the names of released ones.
func install(t *testing.T, c *cluster.Cluster) *rig {
	t.Helper()
	r := &rig{Cluster: c, dir: t.TempDir(), relay: c.Nodes["node1"].Host.Addr().String() + ":" + relayPort}
	began := time.Now()
	r.build(t)
	t.Logf("%6.1f s  images and programs", time.Since(began).Seconds())
	// As README says, and then with an address for the world outside.
	root, err := lab.ModuleDir()
	if err != nil {
		t.Fatal(err)
	}
	static, err := os.ReadFile(filepath.Join(root, "deploy", "install.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, manifest := range []string{string(static), r.render(t, values(r.relay))} {
		if err := c.Apply(t.Context(), manifest); err != nil {
			t.Fatal(err)
		}
		r.await(t, relaySpace, "deployment/culvert-relay")
		r.await(t, agentSpace, "daemonset/culvert-agent")
		t.Logf("%6.1f s  installed", time.Since(began).Seconds())
	}
	return r
}

// build makes the client, and the images, which all nodes get.
func (r *rig) build(t *testing.T) {
	t.Helper()
	root, err := lab.ModuleDir()
	if err != nil {
		t.Fatal(err)
	}
	r.culvert = filepath.Join(r.dir, "culvert")
	run(t, root, "go", "build", "-tags", "grpcnotrace", "-o", r.culvert, "./cmd/culvert")
	version := chartVersion(t, root)
	run(t, filepath.Join(root, "deploy"), "go", "run", "./images", "-out", r.dir, "-version", version, "-platforms", "linux/"+runtime.GOARCH)
	for _, name := range []string{"culvert-relay", "culvert-agent"} {
		archive := filepath.Join(r.dir, name+"-linux-"+runtime.GOARCH+".tar")
		if err := r.ImportArchive(t.Context(), registry+"/"+name+":"+version, archive); err != nil {
			t.Fatal(err)
		}
	}
}

func chartVersion(t *testing.T, root string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "deploy", "chart", "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`(?m)^appVersion: *"?([^"\s]+)`).FindSubmatch(text)
	if match == nil {
		t.Fatal("the chart has no appVersion")
	}
	return string(match[1])
}

// render is helm template with values.
func (r *rig) render(t *testing.T, values string) string {
	t.Helper()
	root, err := lab.ModuleDir()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.dir, "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	return run(t, filepath.Join(root, "deploy"), "go", "run", "./render", "-values", file)
}

// await waits for a rollout, and shows what the pods say if there is none.
func (r *rig) await(t *testing.T, namespace, workload string) {
	t.Helper()
	if _, err := r.Kubectl(t.Context(), "rollout", "status", "-n", namespace, workload, "--timeout=90s"); err != nil {
		r.explain(t, namespace)
		t.Fatal(err)
	}
}

// explain logs what is known of the pods of a namespace.
func (r *rig) explain(t *testing.T, namespace string) {
	t.Helper()
	for _, args := range [][]string{
		{"get", "pods", "-o", "wide"}, {"get", "events", "--sort-by=.lastTimestamp"},
		{"logs", "--prefix", "--all-containers", "--tail=40", "-l", "app.kubernetes.io/name=culvert"},
	} {
		out, err := r.Kubectl(context.WithoutCancel(t.Context()), append([]string{"-n", namespace}, args...)...)
		t.Logf("%v: %v\n%s", args, err, out)
	}
}

// run runs a program to its end and returns what it prints.
func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return string(out)
}
