//go:build linux

package cluster

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// longEnough bounds every wait for something that takes seconds.
const longEnough = 2 * time.Minute

// workload is one podserver on each node, and a service for them. The pods
// answer on their own localhost on port 8080, and to all on port 8081.
const workload = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: "` + lab.PodImage + `"
        imagePullPolicy: Never
        args: ["-name", "$(POD)", "-http", "8080", "-http", "0.0.0.0:8081"]
        env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        readinessProbe: {httpGet: {path: /, port: 8081}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8081}]
`

// deployed is a pod of the workload.
type deployed struct {
	Metadata struct{ Name, UID string }
	Spec     struct{ NodeName string }
}

// TestCluster brings a cluster up and uses it as any other cluster is used.
func TestCluster(t *testing.T) {
	Require(t)
	before := machineTraces()
	var prints []string
	t.Run("up", func(t *testing.T) {
		c := ForTest(t, Config{DNS: true}) // closed at the end of this subtest
		prints = footprints(c)
		if err := c.Apply(t.Context(), workload); err != nil {
			t.Fatal(err)
		}
		pods := rollout(t, c)
		t.Run("port-forward", func(t *testing.T) { forward(t, c, pods[0].Metadata.Name) })
		t.Run("exec", func(t *testing.T) { execute(t, c, pods[1].Metadata.Name) })
		t.Run("logs", func(t *testing.T) { logs(t, c, pods[0].Metadata.Name) })
		t.Run("inside", func(t *testing.T) { inside(t, c, pods[0]) })
		t.Run("services", func(t *testing.T) { services(t, c, pods) })
		t.Run("toolbox", func(t *testing.T) { toolbox(t, c) })
		t.Run("identities", func(t *testing.T) { identities(t, c) })
		t.Run("rebirth", func(t *testing.T) { rebirth(t, c, pods[0]) })
	})
	if left := remains(prints); left != nil {
		t.Errorf("left behind: %q", left)
	}
	if after := machineTraces(); !slices.Equal(before, after) {
		t.Errorf("on the machine was %q and is %q", before, after)
	}
}

// rollout waits for the workload and returns its two pods, which are on two nodes.
func rollout(t *testing.T, c *Cluster) []deployed {
	t.Helper()
	begin := time.Now()
	if _, err := c.Kubectl(t.Context(), "rollout", "status", "deployment/web", "--timeout=2m"); err != nil {
		t.Fatal(err)
	}
	t.Logf("%6.1f s  rollout", time.Since(begin).Seconds())
	pods := list(t, c)
	if len(pods) != 2 || pods[0].Spec.NodeName == pods[1].Spec.NodeName {
		t.Fatalf("pods: %+v", pods)
	}
	return pods
}

func list(t *testing.T, c *Cluster) []deployed {
	t.Helper()
	var answer struct{ Items []deployed }
	if err := c.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/default/pods?labelSelector=app%3Dweb", nil, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Items
}

// get expects a page of the pod of that name.
func get(t *testing.T, from *lab.Namespace, url, pod string) {
	t.Helper()
	status, body, err := from.HTTPGet(t.Context(), url)
	if want := "hello from " + pod + "\n"; err != nil || status != http.StatusOK || body != want {
		t.Errorf("get %s in %s: %d %q, %v", url, from.Name(), status, body, err)
	}
}

func forward(t *testing.T, c *Cluster, pod string) {
	for _, command := range []func(string, ...string) lab.Command{c.KubectlCommand, c.OldKubectlCommand} {
		forwardBy(t, c, command(c.AdminKubeconfig, "port-forward", "pod/"+pod, ":8080"), pod)
	}
}

func forwardBy(t *testing.T, c *Cluster, command lab.Command, pod string) {
	kubectl, err := c.Client.StartCommand(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	defer kubectl.Kill()
	match, err := kubectl.WaitLine(regexp.MustCompile(`^Forwarding from 127\.0\.0\.1:(\d+) -> 8080$`), longEnough)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		get(t, c.Client.Namespace, "http://127.0.0.1:"+match[1]+"/", pod)
	}
}

func execute(t *testing.T, c *Cluster, pod string) {
	out, err := c.Kubectl(t.Context(), "exec", pod, "--", "/podserver", "-version")
	if err != nil || !strings.HasPrefix(out, "podserver, built with go") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := c.Kubectl(t.Context(), "exec", pod, "--", "/podserver", "-nonsense"); err == nil {
		t.Errorf("a bad flag went well: %q", out)
	}
}

func logs(t *testing.T, c *Cluster, pod string) {
	if out, err := c.Kubectl(t.Context(), "logs", pod); err != nil || out != "ready\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// inside looks at a pod from its node: its files are where they are on any node.
func inside(t *testing.T, c *Cluster, pod deployed) {
	node := c.Nodes[pod.Spec.NodeName]
	namespace, err := node.Pod(t.Context(), "default", pod.Metadata.Name)
	if err != nil {
		t.Fatal(err)
	}
	get(t, namespace, "http://127.0.0.1:8080/", pod.Metadata.Name)
	for _, pattern := range []string{
		"/run/netns/cni-*", "/run/containerd/containerd.sock",
		"/var/log/pods/default_web-*_" + pod.Metadata.UID + "/web/0.log",
		"/var/lib/kubelet/pods/" + pod.Metadata.UID,
	} {
		if found, err := filepath.Glob(node.Path(pattern)); err != nil || len(found) == 0 {
			t.Errorf("%s of %s: %q, %v", pattern, node.Name(), found, err)
		}
	}
	p, err := node.Containerd.FindPod(t.Context(), "default", pod.Metadata.Name)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
	if err != nil || !strings.Contains(string(groups), node.Containerd.Cgroup()+"/kubepods/") {
		t.Errorf("the pod is where no reaper finds it, %v:\n%s", err, groups)
	}
	out, err := node.Host.RunCommand(t.Context(), node.Command(lab.Command{Path: "hostname"}))
	if err != nil || out != node.Name()+"\n" {
		t.Errorf("host name %q, %v", out, err)
	}
}

// services reaches ClusterIPs from everywhere.
func services(t *testing.T, c *Cluster, pods []deployed) {
	var service struct{ Spec struct{ ClusterIP string } }
	if err := c.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/default/services/web", nil, &service); err != nil {
		t.Fatal(err)
	}
	from := []*lab.Namespace{c.Client.Namespace, c.Relay.Namespace, c.Control.Host.Namespace}
	for _, pod := range pods {
		node := c.Nodes[pod.Spec.NodeName]
		namespace, err := node.Pod(t.Context(), "default", pod.Metadata.Name)
		if err != nil {
			t.Fatal(err)
		}
		from = append(from, node.Host.Namespace, namespace)
	}
	for _, namespace := range from {
		seen := map[string]bool{}
		err := Await(t.Context(), "both pods behind the service", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			_, body, err := namespace.HTTPGet(ctx, "http://"+service.Spec.ClusterIP+"/")
			if seen[body] = true; err == nil && len(seen) < 2 {
				err = fmt.Errorf("only %q so far", body)
			}
			return err
		})
		if err != nil {
			t.Errorf("in %s: %v", namespace.Name(), err)
		}
		conn, err := namespace.Dial(t.Context(), serviceNet.Addr().Next().String()+":443")
		if err != nil {
			t.Errorf("the API server's ClusterIP: %v", err)
			continue
		}
		conn.Close()
	}
}

// toolbox runs a shell in a pod, which finds a service by its name.
func toolbox(t *testing.T, c *Cluster) {
	if err := c.ImportToolbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, err := c.Kubectl(t.Context(), "run", "shell", "--image="+ToolboxImage, "--image-pull-policy=Never", "--restart=Never",
		"--rm", "-i", "--quiet", "--command", "--", "sh", "-c", "wget -q -O - http://web.default.svc")
	if err != nil || !strings.HasPrefix(out, "hello from web-") {
		t.Errorf("%q, %v", out, err)
	}
}

// identities asks who a certificate and a token make one.
func identities(t *testing.T, c *Cluster) {
	jane, err := c.UserKubeconfig("jane", "devs")
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.Token(t.Context(), "default", "default", 0)
	if err != nil {
		t.Fatal(err)
	}
	account, err := c.TokenKubeconfig("account", token)
	if err != nil {
		t.Fatal(err)
	}
	for kubeconfig, want := range map[string]string{jane: "jane", account: "system:serviceaccount:default:default"} {
		out, err := c.Client.RunCommand(t.Context(), c.KubectlCommand(kubeconfig, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"))
		if err != nil || out != want {
			t.Errorf("%q, want %q: %v", out, want, err)
		}
		if out, err := c.Client.RunCommand(t.Context(), c.KubectlCommand(kubeconfig, "get", "pods")); err == nil {
			t.Errorf("%s may list pods: %s", want, out)
		}
	}
}

// rebirth deletes a pod and waits for the one that takes its place.
func rebirth(t *testing.T, c *Cluster, pod deployed) {
	begin := time.Now()
	if _, err := c.Kubectl(t.Context(), "delete", "pod", pod.Metadata.Name); err != nil {
		t.Fatal(err)
	}
	for _, p := range rollout(t, c) {
		if p.Metadata.UID == pod.Metadata.UID {
			t.Errorf("the pod is still there: %+v", p)
		}
		forward(t, c, p.Metadata.Name)
	}
	t.Logf("%6.1f s  deleted, made again and reached", time.Since(begin).Seconds())
}
