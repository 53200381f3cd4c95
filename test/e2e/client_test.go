//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/test/lab"
)

const webService = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  selector: {app: outer}
  ports: [{name: http, port: 80, targetPort: 8080}]
`

// native tries what only culvert has: targets of all kinds, its diagnosis, and
// being a plugin.
func native(t *testing.T, r *rig) {
	direct := r.account(t, "dev", "culvert-forwarder")
	if err := r.Apply(t.Context(), webService); err != nil {
		t.Fatal(err)
	}
	t.Run("targets", func(t *testing.T) {
		for _, target := range [][]string{
			{"pod/outer", ":8080"}, {"outer", ":8080"}, {"service/web", ":80"}, {"svc/web", ":http"}, {"-l", "app=outer", ":8080"},
		} {
			w := way{name: "culvert", on: r.Client.Namespace, command: func(...string) lab.Command {
				return r.culvertCommand(direct, append([]string{"port-forward"}, target...)...)
			}}
			f, err := w.forward(t.Context(), "", 8080)
			if err != nil {
				t.Errorf("%v: %v", target, err)
				continue
			}
			if status, body, err := fetch(t.Context(), f); err != nil || status != 200 {
				t.Errorf("%v: %d %q, %v", target, status, body, err)
			}
			if !strings.Contains(said(f.Process), "-> 8080") {
				t.Errorf("%v: it said %s", target, said(f.Process))
			}
			f.Kill()
		}
	})
	t.Run("doctor", func(t *testing.T) { diagnosed(t, r, direct) })
	t.Run("plugin", func(t *testing.T) { plugin(t, r, direct) })
}

// diagnosed asks the doctor about a way that is well, and about two that are not.
func diagnosed(t *testing.T, r *rig, direct string) {
	for _, tt := range []struct {
		name, kubeconfig string
		args             []string
		code             int
		want             string
	}{
		{"well", direct, []string{"pod/inner", "8080"}, 0, ""},
		{"nobody listens", direct, []string{"pod/inner", "8999"}, 1, "nothing listens"},
		{"no right", r.account(t, "nobody", "system:basic-user"), []string{"pod/inner", "8080"}, 1, "pods/portforward"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := r.see(t.Context(), r.culvertCommand(tt.kubeconfig, append([]string{"doctor"}, tt.args...)...))
			t.Logf("%v\n%s%s", err, got.out, got.err)
			if err != nil || got.code != tt.code || !strings.Contains(got.out, tt.want) {
				t.Errorf("exit code %d, %v", got.code, err)
			}
			got, err = r.see(t.Context(), r.culvertCommand(tt.kubeconfig, append([]string{"doctor", "-o", "json"}, tt.args...)...))
			var report map[string]json.RawMessage
			if err != nil || got.code != tt.code || json.Unmarshal([]byte(got.out), &report) != nil {
				t.Errorf("as JSON: %+v, %v", brief(got), err)
			}
		})
	}
}

// plugin calls culvert as kubectl culvert, and completes its arguments.
func plugin(t *testing.T, r *rig, direct string) {
	dir := filepath.Join(r.dir, "path")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kubectl-culvert", "kubectl_complete-culvert"} {
		if err := os.Symlink(r.culvert, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	kubectl := func(args ...string) lab.Command {
		command := r.KubectlCommand(direct, args...)
		command.Env = append(command.Env, fmt.Sprintf("PATH=%s:%s:%s", dir, filepath.Dir(command.Path), os.Getenv("PATH")))
		return command
	}
	w := way{name: "kubectl culvert", on: r.Client.Namespace, command: func(args ...string) lab.Command {
		return kubectl(append([]string{"culvert"}, args...)...)
	}}
	f, err := w.forward(t.Context(), "pod/inner", portEcho)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Kill()
	if err := f.serves(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if got, err := r.see(t.Context(), kubectl("culvert", "--help")); err != nil || !strings.Contains(got.out, "kubectl culvert") {
		t.Errorf("%+v, %v", brief(got), err)
	}
	got, err := r.see(t.Context(), kubectl("__complete", "culvert", "port-forward", "pod/in"))
	if err != nil || !strings.Contains(got.out, "pod/inner") {
		t.Errorf("completion: %+v, %v", brief(got), err)
	}
}
