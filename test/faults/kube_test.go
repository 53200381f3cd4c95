//go:build linux

package faults

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/cluster"
	"github.com/culvert-k8s/culvert/test/lab"
)

const (
	kubeRelayHealth = "127.0.0.1:7480"
	kubeAgentHealth = "127.0.0.1:7481"
)

// TestCluster breaks Kubernetes below relay and agents that follow it. Users are
// service accounts, each with a token of its own.
func TestCluster(t *testing.T) {
	if os.Getenv("CULVERT_TEST_CLUSTER") != "required" {
		t.Skip("needs Kubernetes: make faults runs it")
	}
	report := newReport(t)
	k := &kubeRig{Cluster: cluster.ForTest(t, cluster.Config{}), dir: t.TempDir(), agents: map[string]*lab.Process{}}
	r := k.start(t)
	for _, f := range k.faults() {
		t.Run(f.where+", "+f.what, func(t *testing.T) { report.add(t, titleCluster, f.try(t, r)) })
		if t.Failed() {
			return
		}
	}
	report.sum(figuresCluster)
}

// kubeRig is a cluster with what makes it a rig.
type kubeRig struct {
	*cluster.Cluster
	dir      string
	binaries *lab.Binaries
	relay    *lab.Process
	agents   map[string]*lab.Process
}

const kubeObjects = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: forwarder}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [pods/portforward], verbs: [create, get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: forwarder}
subjects: [{kind: ServiceAccount, name: %[1]s, namespace: default}]
`

const kubePod = `
apiVersion: v1
kind: Pod
metadata: {name: web-%[1]s, namespace: default}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: %[2]q, imagePullPolicy: Never, args: ["-echo", "7999"]}]
`

// start runs everything and returns when all flows work.
func (k *kubeRig) start(t *testing.T) *rig {
	t.Helper()
	var err error
	k.binaries, err = lab.Build(t.Context())
	must(t, err)
	r := &rig{
		Cluster: &lab.Cluster{Network: k.Network, Client: k.Client, Binaries: k.binaries},
		pods:    map[string]*pod{}, users: map[string]*user{}, clean: map[string]holdings{}, last: map[string]holdings{},
	}
	r.members = k.members(r)
	k.startRelay(t)
	for _, node := range nodes() {
		must(t, k.Apply(t.Context(), fmt.Sprintf(kubePod, node, lab.PodImage)))
		_, err := k.Kubectl(t.Context(), "wait", "--for=condition=Ready", "pod/web-"+node, "--timeout=90s")
		must(t, err)
		space, err := k.Nodes[node].Pod(t.Context(), "default", "web-"+node)
		must(t, err)
		ln, err := space.Listen(fmt.Sprintf("127.0.0.1:%d", podPort)) // the test is the pod's program
		must(t, err)
		r.pods[node] = &pod{ln: ln}
		k.startAgent(t, node)
	}
	for _, name := range []string{near, far} {
		must(t, k.Apply(t.Context(), fmt.Sprintf(kubeObjects, name)))
		r.users[name] = &user{forwards: map[string]*forward{}}
		for _, node := range nodes() {
			f := &forward{r: r, command: k.forward(t, name, node)}
			must(t, f.start())
			r.users[name].forwards[node] = f
		}
	}
	r.startLoad(t, rigConfig{})
	return r
}

// forward is the command line of a user's forward, with a token of an hour.
func (k *kubeRig) forward(t *testing.T, name, node string) lab.Command {
	t.Helper()
	token, err := k.Token(t.Context(), "default", name, time.Hour)
	must(t, err)
	kubeconfig, err := k.TokenKubeconfig(name, token)
	must(t, err)
	command := k.KubectlCommand(kubeconfig, "port-forward", "--relay", k.relayAddr(), "--relay-ca", filepath.Join(k.dir, "relay", "ca.crt"),
		"pod/web-"+node, fmt.Sprintf(":%d", podPort))
	command.Path, command.Label = k.binaries.Client, "culvert-"+name+"-"+node
	return command
}

func (k *kubeRig) relayAddr() string { return k.Relay.Addr().String() + ":7443" }

func (k *kubeRig) startRelay(t *testing.T) {
	t.Helper()
	var err error
	k.relay, err = k.Relay.StartCommand(context.Background(), lab.Command{Path: k.binaries.Relay, Args: []string{
		"serve", "--listen", ":7443", "--advertise", k.relayAddr(), "--state-dir", filepath.Join(k.dir, "relay"),
		"--health-listen", kubeRelayHealth, "--debug-listen", debugListen,
		"--kube", "--kube-apiserver", k.Server(), "--kube-apiserver-ca", k.CAFile(),
	}})
	must(t, err)
	awaitReady(t, k.Relay, kubeRelayHealth)
}

func (k *kubeRig) startAgent(t *testing.T, node string) {
	t.Helper()
	n := k.Nodes[node]
	pin, err := os.ReadFile(filepath.Join(k.dir, "relay", "ca-pin"))
	must(t, err)
	k.agents[node], err = n.Host.StartCommand(context.Background(), n.Command(lab.Command{Path: k.binaries.Agent, Args: []string{
		"--relay", k.relayAddr(), "--node", node, "--state-dir", filepath.Join(k.dir, node),
		"--join-token-file", filepath.Join(k.dir, "relay", "join-token"), "--relay-ca-pin", strings.TrimSpace(string(pin)),
		"--health-listen", kubeAgentHealth, "--debug-listen", debugListen,
	}}))
	must(t, err)
	awaitReady(t, n.Host, kubeAgentHealth)
}

func awaitReady(t *testing.T, host *lab.Host, health string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, cluster.Await(ctx, "readiness", func(ctx context.Context) error {
		code, body, err := host.HTTPGet(ctx, "http://"+health+"/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d: %s", code, body)
		}
		return err
	}))
}

// members are the programs that are looked at.
func (k *kubeRig) members(r *rig) func() []program {
	get := func(host *lab.Host, health string) func(context.Context, string) (int, string, error) {
		return func(ctx context.Context, path string) (int, string, error) {
			return host.HTTPGet(ctx, "http://"+health+path)
		}
	}
	return func() []program {
		all := []program{{"relay", k.relay, k.Relay, get(k.Relay, kubeRelayHealth)}}
		for _, node := range nodes() {
			host := k.Nodes[node].Host
			all = append(all, program{"agent of " + node, k.agents[node], host, get(host, kubeAgentHealth)})
		}
		return append(all, r.clients()...)
	}
}

func (k *kubeRig) faults() []fault {
	kubelet, api := k.Nodes["node1"].Kubelet, k.Control.APIServer
	signal := func(d *cluster.Daemon, sig syscall.Signal) func(*testing.T, *rig) {
		return func(t *testing.T, _ *rig) { must(t, d.Process().Signal(sig)) }
	}
	kill := func(d *cluster.Daemon) func(*testing.T, *rig) { return func(*testing.T, *rig) { d.Kill() } }
	start := func(t *testing.T, _ *rig) {
		must(t, api.Start())
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		must(t, cluster.Await(ctx, "API server", func(ctx context.Context) error {
			return k.Do(ctx, http.MethodGet, "/readyz", nil, nil)
		}, api))
	}
	return []fault{
		{where: "kubelet", what: "kill -9", lasts: longTime, begin: kill(kubelet), end: func(t *testing.T, _ *rig) { must(t, kubelet.Start()) }},
		{where: "kubelet", what: "stopped for 3 s", lasts: longTime, begin: signal(kubelet, syscall.SIGSTOP), end: signal(kubelet, syscall.SIGCONT)},
		{where: "kube-apiserver", what: "stopped for 20 s", hits: everybody, gentle: true, lasts: 20 * time.Second, begin: signal(api, syscall.SIGSTOP), end: signal(api, syscall.SIGCONT)},
		{where: "kube-apiserver", what: "kill -9, away for 20 s", hits: everybody, gentle: true, lasts: 20 * time.Second, begin: kill(api), end: start},
		k.revoked(),
	}
}

// revoked takes a user's account away while he is connected, and with it his token.
func (k *kubeRig) revoked() fault {
	return fault{
		where: "user", what: "token revoked in mid-session", hits: onlyNear,
		begin: func(t *testing.T, _ *rig) {
			_, err := k.Kubectl(t.Context(), "delete", "serviceaccount", near)
			must(t, err)
		},
		end: func(t *testing.T, r *rig) {
			must(t, k.Apply(t.Context(), fmt.Sprintf(kubeObjects, near)))
			for _, node := range nodes() { // he logs in again
				f := r.users[near].forwards[node]
				args := f.command.Args
				f.Kill()
				f.command = k.forward(t, near, node)
				f.command.Args[len(f.command.Args)-1] = args[len(args)-1]
				must(t, f.start())
			}
		},
	}
}
