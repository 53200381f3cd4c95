//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// tryTimeout bounds one behaviour on one way.
const tryTimeout = 3 * time.Minute

// compare tries every behaviour on every way. A way on which one is known to fail
// must fail: a note that is no longer true is wrong too.
func compare(t *testing.T, title string, behaviours []behaviour, scenes []*scene) *table {
	t.Helper()
	result := &table{title: title}
	for _, s := range scenes {
		result.columns = append(result.columns, s.name)
	}
	for _, b := range behaviours {
		r := row{name: b.name, note: b.note, cells: make([]cell, len(scenes))}
		var running sync.WaitGroup
		for i, s := range scenes {
			running.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), tryTimeout)
				defer cancel()
				began := time.Now()
				err := b.try(ctx, s)
				t.Logf("%5.1f s  %s: %s: %v", time.Since(began).Seconds(), s.name, b.name, err)
				r.cells[i] = judge(t, s.name+": "+b.name, b.want(s.way), err)
			})
		}
		running.Wait()
		result.rows = append(result.rows, r)
	}
	return result
}

// judge compares what was seen with what is known.
func judge(t *testing.T, what string, want verdict, err error) cell {
	t.Helper()
	switch {
	case want == varies:
		return cellVaries
	case want == fails && err == nil:
		t.Errorf("%s: works, but is said not to", what)
	case want == works && err != nil:
		t.Errorf("%s: %v", what, err)
	}
	if err != nil {
		return cellNo
	}
	return cellYes
}

// compatibility tries everything everywhere and holds the result against
// docs/compatibility.md, which it writes anew if that has become untrue.
func compatibility(t *testing.T, r *rig) {
	scenes := r.scenes(t)
	text := compatHead
	for _, part := range []struct {
		title string
		rows  []behaviour
	}{
		{"What Kubernetes' own tests look at", upstream()},
		{"What they do not look at", gaps()},
		{"Pods that come and go", changes()},
	} {
		text += "\n" + compare(t, part.title, part.rows, scenes).markdown()
	}
	text += "\n" + channelled(t, r).markdown()
	root, err := lab.ModuleDir()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "docs", "compatibility.md")
	if was, err := os.ReadFile(file); err == nil && string(was) == text {
		return
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Errorf("%s was not true; it has been written anew", file)
}

const compatHead = `# Compatibility

What users see of a port-forward, tried with real programs on a real cluster: Kubernetes 1.36 with containerd, two nodes. The
first column of each kubectl is the stock path (kube-apiserver, kubelet, containerd), the second the same program with a
kubeconfig that points at a relay. ` + "`make e2e`" + ` tries all of it and writes this file; it fails when the file was not true.

kubectl 1.36 speaks SPDY in WebSocket, kubectl 1.29 plain SPDY.
`

// scenes are all ways, with the pods.
func (r *rig) scenes(t *testing.T) []*scene {
	t.Helper()
	var scenes []*scene
	for i, w := range r.ways(t) {
		scenes = append(scenes, &scene{way: w, id: strconv.Itoa(i), cluster: r.Cluster, pod: "pod/inner", open: "pod/outer", logs: r.podLog})
	}
	return scenes
}

// ways are both versions of kubectl on both paths, and culvert. Users have a
// token; through the relay kubectl goes by a kubeconfig that culvert has written.
func (r *rig) ways(t *testing.T) []way {
	t.Helper()
	direct := r.developer(t)
	through := r.through(t, direct)
	on := r.Client.Namespace
	kubectl := func(kubeconfig string) func(...string) lab.Command {
		return func(args ...string) lab.Command { return r.KubectlCommand(kubeconfig, args...) }
	}
	old := func(kubeconfig string) func(...string) lab.Command {
		return func(args ...string) lab.Command { return r.OldKubectlCommand(kubeconfig, args...) }
	}
	return []way{
		{name: "kubectl 1.36", on: on, command: kubectl(direct)},
		{name: "kubectl 1.36, Culvert", culvert: true, on: on, command: kubectl(through)},
		{name: "kubectl 1.29", old: true, on: on, command: old(direct)},
		{name: "kubectl 1.29, Culvert", culvert: true, old: true, on: on, command: old(through)},
		{name: "culvert", culvert: true, native: true, on: on, command: func(args ...string) lab.Command {
			return r.culvertCommand(direct, args...)
		}},
	}
}

// culvertCommand is a command line of culvert with a kubeconfig.
func (r *rig) culvertCommand(kubeconfig string, args ...string) lab.Command {
	command := r.KubectlCommand(kubeconfig, args...)
	command.Path, command.Label = r.culvert, "culvert"
	return command
}

// developer makes the account dev, which may forward, and returns a kubeconfig. On
// the stock path WebSocket needs the verb get beside create: without it kubectl
// falls back to SPDY, and other clients are refused.
func (r *rig) developer(t *testing.T) string {
	t.Helper()
	err := r.Apply(t.Context(), `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: stock-websocket}
rules: [{apiGroups: [""], resources: [pods/portforward], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: stock-websocket}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: stock-websocket}
subjects: [{kind: ServiceAccount, name: dev, namespace: default}]
`)
	if err != nil {
		t.Fatal(err)
	}
	return r.account(t, "dev", "culvert-forwarder")
}

// account makes a service account that has a cluster role everywhere, and returns
// a kubeconfig with its token.
func (r *rig) account(t *testing.T, name, role string) string {
	t.Helper()
	err := r.Apply(t.Context(), fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[2]s}
subjects: [{kind: ServiceAccount, name: %[1]s, namespace: default}]
`, name, role))
	if err != nil {
		t.Fatal(err)
	}
	token, err := r.Token(t.Context(), "default", name, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := r.TokenKubeconfig(name, token)
	if err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

// through has culvert write a kubeconfig whose current context leads through the
// relay.
func (r *rig) through(t *testing.T, direct string) string {
	t.Helper()
	text, err := os.ReadFile(direct)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.dir, filepath.Base(direct)+"-culvert")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := r.Client.RunCommand(t.Context(), r.culvertCommand(file, "kubeconfig", "--use")); err != nil {
		t.Fatalf("culvert kubeconfig: %v\n%s", err, out)
	}
	return file
}
