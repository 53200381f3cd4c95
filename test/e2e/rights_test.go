//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// narrow are users with rights that are not quite enough: each may read pods in
// default, and one may forward to one pod only.
const narrow = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: default}
rules: [{apiGroups: [""], resources: [pods, pods/portforward], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: readers, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}, {kind: ServiceAccount, name: one-pod, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: one-pod, namespace: default}
rules: [{apiGroups: [""], resources: [pods/portforward], resourceNames: [inner], verbs: [create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: one-pod, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: one-pod}
subjects: [{kind: ServiceAccount, name: one-pod, namespace: default}]
`

// rights tries users who may little, and holds what they are told against what the
// API server says.
func rights(t *testing.T, r *rig) {
	kubeconfigs := map[string]string{}
	for _, name := range []string{"nobody", "reader", "one-pod"} {
		kubeconfigs[name] = r.account(t, name, "system:basic-user") // what everybody may
	}
	if err := r.Apply(t.Context(), narrow); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		user, pod string
		may       bool
	}{
		{"nobody", "inner", false}, {"reader", "inner", false}, {"one-pod", "inner", true}, {"one-pod", "outer", false},
	} {
		t.Run(tt.user+" "+tt.pod, func(t *testing.T) {
			direct := kubeconfigs[tt.user]
			through := r.through(t, direct)
			for name, command := range map[string]func(string, ...string) lab.Command{
				"kubectl 1.36": r.KubectlCommand, "kubectl 1.29": r.OldKubectlCommand, "culvert": r.culvertCommand,
			} {
				w := way{name: name, on: r.Client.Namespace, command: func(args ...string) lab.Command { return command(through, args...) }}
				if tt.may {
					f, err := w.forward(t.Context(), "pod/"+tt.pod, portHTTP)
					if err != nil {
						t.Errorf("%s: %v", name, err)
						continue
					}
					f.Kill()
					continue
				}
				got, err := r.see(t.Context(), command(through, "port-forward", "pod/"+tt.pod, ":8080"))
				if err != nil || got.code != 1 || got.out != "" || !strings.Contains(got.err, "forbidden") ||
					!strings.Contains(got.err, "system:serviceaccount:default:"+tt.user) {
					t.Errorf("%s: %+v, %v", name, got, err)
				}
				if name == "culvert" {
					continue
				}
				if stock, err := r.see(t.Context(), command(direct, "port-forward", "pod/"+tt.pod, ":8080")); err != nil || stock != got {
					t.Errorf("%s says\n%s\nand on the stock path\n%s", name, got.err, stock.err)
				}
			}
		})
	}
	t.Run("revoked", func(t *testing.T) { revoked(t, r, kubeconfigs["one-pod"]) })
}

// revoked takes a right away while a forward runs: new connections are refused
// within seconds.
func revoked(t *testing.T, r *rig, direct string) {
	w := way{on: r.Client.Namespace, command: func(args ...string) lab.Command { return r.KubectlCommand(r.through(t, direct), args...) }}
	f, err := w.forward(t.Context(), "pod/inner", portEcho)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Kill()
	if err := f.serves(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Kubectl(t.Context(), "delete", "rolebinding", "one-pod"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for f.serves(ctx, 0) == nil {
		if ctx.Err() != nil {
			t.Fatal("still served a minute after the right was taken away")
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// auditLine is what a relay says of a stream.
type auditLine struct {
	Msg, ID, User, From, Node, Pod, UID, Code, Reason string
	Port                                              int
	BytesUp                                           int64 `json:"bytes_up"`
	BytesDown                                         int64 `json:"bytes_down"`
}

// audited makes streams that end in different ways and finds each in the log of a
// relay, once.
func audited(t *testing.T, r *rig) {
	for _, w := range r.ways(t) {
		if !w.culvert {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			before := r.auditLines(t)
			f, err := w.forward(t.Context(), "pod/inner", portEcho, portNobody, portReset)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := f.ask(t.Context(), 0, "seventeen letters", prompt)
			if err != nil || answer != "seventeen letters" {
				t.Errorf("%q, %v", answer, err)
			}
			_, _ = f.ask(t.Context(), 1, "", prompt)
			_, _ = f.ask(t.Context(), 2, "1234", prompt)
			f.Kill()
			for _, want := range []auditLine{
				{Port: portEcho, Code: "ok", BytesUp: 17, BytesDown: 17},
				{Port: portNobody, Code: "not-listening"},
				{Port: portReset, Code: "pod-reset", BytesUp: 4},
			} {
				r.awaitAudit(t, before, want)
			}
		})
	}
}

// auditLines returns what all relays have said of streams.
func (r *rig) auditLines(t *testing.T) []auditLine {
	t.Helper()
	text, err := r.Kubectl(t.Context(), "logs", "-n", relaySpace, "-l", "app.kubernetes.io/component=relay", "--tail=-1")
	if err != nil {
		t.Fatal(err)
	}
	var lines []auditLine
	for line := range strings.Lines(text) {
		var a auditLine
		if json.Unmarshal([]byte(line), &a) == nil && a.Msg == "stream" {
			lines = append(lines, a)
		}
	}
	return lines
}

// awaitAudit waits for the one line of a stream of the user dev to the pod inner.
func (r *rig) awaitAudit(t *testing.T, before []auditLine, want auditLine) {
	t.Helper()
	known := map[string]bool{}
	for _, a := range before {
		known[a.ID] = true
	}
	var found []auditLine
	for began := time.Now(); time.Since(began) < prompt && len(found) == 0; time.Sleep(100 * time.Millisecond) {
		for _, a := range r.auditLines(t) {
			if !known[a.ID] && a.Port == want.Port {
				found = append(found, a)
			}
		}
	}
	if len(found) != 1 {
		t.Errorf("port %d: lines %+v", want.Port, found)
		return
	}
	got := found[0]
	if got.Code != want.Code || got.BytesUp != want.BytesUp || got.BytesDown != want.BytesDown || got.Pod != "default/inner" ||
		got.User != "system:serviceaccount:default:dev" || got.Node != "node1" || got.UID == "" || got.From == "" {
		t.Errorf("want %+v\ngot  %+v", want, got)
	}
}
