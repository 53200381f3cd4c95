//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/test/lab"
)

// private is a cluster whose API server cannot be reached from outside: the relay
// is on a host of its own and reaches it through the agents, which dial out. The
// agents join that relay by token, since nobody outside can judge the cluster's.
func private(t *testing.T, r *rig) {
	api := r.Control.Host.Addr().String()
	if _, err := r.Relay.Run(t.Context(), "ip", "route", "add", "prohibit", api+"/32"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := r.Relay.Run(context.Background(), "ip", "route", "del", "prohibit", api+"/32"); err != nil {
			t.Error(err)
		}
	})
	programs, err := lab.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(r.dir, "relay")
	at := r.Relay.Addr().String() + ":7443"
	start(t, r.Relay.Namespace, lab.Command{Path: programs.Relay, Label: "private-relay", Args: []string{
		"serve", "--state-dir", state, "--advertise", "relay.example.com", "--advertise", r.Relay.Addr().String(),
		"--kube", "--kube-via-agents", "--kube-apiserver", "https://" + api + ":6443", "--kube-apiserver-ca", r.CAFile(),
	}}, `relay listens`)
	for name, node := range r.Nodes {
		agentState := filepath.Join(r.dir, "agent-"+name)
		start(t, node.Host.Namespace, node.Command(lab.Command{Path: programs.Agent, Label: "private-agent-" + name, Args: []string{
			"--relay", at, "--relay-ca", filepath.Join(state, "ca.crt"), "--join-token-file", filepath.Join(state, "join-token"),
			"--state-dir", agentState, "--node", name, "--source", "containerd", "--health-listen", "",
			"--allow-apiserver", "--apiserver", api + ":6443",
		}}), `tunnel up`)
	}
	kubeconfig := r.byName(t, filepath.Join(state, "ca.crt"), at)
	for _, args := range [][]string{
		{"get", "pod", "inner", "-o", "jsonpath={.spec.nodeName}"},
		{"exec", "-i", "inner", "--", "sh", "-c", "cat; echo node1"},
		{"logs", "outer", "--tail=1"},
	} {
		for _, command := range []func(string, ...string) lab.Command{r.KubectlCommand, r.OldKubectlCommand} {
			c := command(kubeconfig, args...)
			c.Stdin = strings.NewReader(strings.Repeat("x", 100_000) + "\n")
			got, err := r.see(t.Context(), c)
			if err != nil || got.code != 0 {
				t.Errorf("%v: %+v, %v", args, brief(got), err)
			}
		}
	}
	t.Run("attach", func(t *testing.T) { attach(t, r, kubeconfig) })
	t.Run("watch", func(t *testing.T) { follows(t, r, kubeconfig) })
	for name, command := range map[string]func(string, ...string) lab.Command{
		"kubectl 1.36": r.KubectlCommand, "kubectl 1.29": r.OldKubectlCommand, "culvert": r.culvertCommand,
	} {
		w := way{name: name, on: r.Client.Namespace, command: func(args ...string) lab.Command { return command(kubeconfig, args...) }}
		f, err := w.forward(t.Context(), "pod/inner", portEcho)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := f.serves(t.Context(), 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		f.Kill()
	}
}

// start runs a program until the end of the test, and waits for a line of it.
func start(t *testing.T, on *lab.Namespace, command lab.Command, line string) {
	t.Helper()
	p, err := on.StartCommand(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if _, err := p.WaitLine(regexp.MustCompile(line), patience); err != nil {
		t.Fatalf("%v; it said %s", err, said(p))
	}
}

// byName writes a kubeconfig for a relay whose certificate is for a name that the
// client host cannot resolve, as behind a load balancer.
func (r *rig) byName(t *testing.T, ca, at string) string {
	t.Helper()
	direct := r.account(t, "outside", "cluster-admin")
	text, err := os.ReadFile(direct)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		APIVersion string           `json:"apiVersion"`
		Kind       string           `json:"kind"`
		Current    string           `json:"current-context"`
		Clusters   []map[string]any `json:"clusters"`
		Users      []map[string]any `json:"users"`
		Contexts   []map[string]any `json:"contexts"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	config.Clusters[0]["cluster"] = map[string]any{
		"server": "https://" + at, "tls-server-name": "relay.example.com", "certificate-authority-data": authority,
		"extensions": []map[string]any{{"name": "culvert.dev/relay", "extension": map[string]any{}}},
	}
	if text, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.dir, "outside")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
