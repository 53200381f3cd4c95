//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/cluster"
	"github.com/culvert-k8s/culvert/test/lab"
)

// outcome is all that a user sees of a command.
type outcome struct {
	out, err string
	code     int
}

// see runs a command on the client host to its end.
func (r *rig) see(ctx context.Context, command lab.Command) (outcome, error) {
	var out bytes.Buffer
	command.Stdout = &out
	p, err := r.Client.StartCommand(ctx, command)
	if err != nil {
		return outcome{}, err
	}
	defer p.Kill()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := p.Wait(ctx); err != nil && ctx.Err() != nil {
		return outcome{}, fmt.Errorf("%s: %w", command.Label, err)
	}
	return outcome{out: out.String(), err: p.Text(lab.Stderr), code: p.ExitCode()}, nil
}

// passes runs commands of kubectl on both paths, and holds against each other what
// they print.
func passes(t *testing.T, r *rig) {
	direct := r.account(t, "admin", "cluster-admin")
	through := r.through(t, direct)
	unique := regexp.MustCompile(`[0-9a-f]{64}`)         // the name of an execution
	done := regexp.MustCompile(`(?m) [a-z]+( \(.*\))?$`) // created, then unchanged
	for _, tt := range []struct {
		name  string
		args  []string
		stdin string
		want  string         // in the output; empty: any
		same  *regexp.Regexp // what may differ in the output; nil: nothing
	}{
		{name: "get", args: []string{"get", "pod", "inner", "-o", "jsonpath={.spec.nodeName}"}, want: "node1"},
		{name: "get of nothing", args: []string{"get", "pod", "nobody"}},
		{name: "explain", args: []string{"explain", "pod.spec.nodeName"}, want: "nodeName"},
		{name: "api-resources", args: []string{"api-resources", "-o", "name"}, want: "pods"},
		{name: "auth can-i", args: []string{"auth", "can-i", "--list"}, want: "*.*"},
		{name: "whoami", args: []string{"auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"}, want: "system:serviceaccount:default:admin"},
		{name: "logs", args: []string{"logs", "outer", "--tail=1"}},
		{name: "as somebody else", args: []string{"get", "pods", "--as=jane"}, want: ""},
		{name: "as oneself", args: []string{"auth", "whoami", "--as=jane", "--as-group=devs", "-o", "jsonpath={.status.userInfo.groups}"}, want: "devs"},
		{name: "exec", args: []string{"exec", "inner", "--", "sh", "-c", "echo out; echo err >&2; exit 3"}, want: "out"},
		{name: "exec with input", args: []string{"exec", "-i", "inner", "--", "sh", "-c", "cat; echo; echo end"}, stdin: strings.Repeat("in and out\n", 5000), want: "end"},
		{name: "exec of nothing", args: []string{"exec", "inner", "--", "/nothing"}},
		{name: "apply", args: []string{"apply", "-f", "-"}, stdin: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"passed"}}`, want: "configmap/passed", same: done},
		{name: "patch", args: []string{"patch", "configmap", "passed", "-p", `{"data":{"a":"b"}}`}, same: done},
		{name: "get a field", args: []string{"get", "configmap", "passed", "-o", "jsonpath={.data.a}"}, want: "b"},
		{name: "create and delete", args: []string{"run", "brief", "--image=" + cluster.ToolboxImage, "--image-pull-policy=Never",
			"--restart=Never", "--rm", "-i", "--quiet", "--command", "--", "sh", "-c", "sleep 1; echo brief"}, want: "brief"},
		{name: "raw", args: []string{"get", "--raw", "/version"}, want: "gitVersion"},
		{name: "raw of a proxy", args: []string{"get", "--raw", "/api/v1/namespaces/default/pods/outer:8080/proxy/"}, want: "hello"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, old := range []bool{false, true} {
				run := func(kubeconfig string) outcome {
					command := r.KubectlCommand(kubeconfig, tt.args...)
					if old {
						command = r.OldKubectlCommand(kubeconfig, tt.args...)
					}
					command.Stdin = strings.NewReader(tt.stdin)
					got, err := r.see(t.Context(), command)
					if err != nil {
						t.Fatal(err)
					}
					return got
				}
				stock, ours := run(direct), run(through)
				for _, o := range []*outcome{&stock, &ours} {
					if o.err = unique.ReplaceAllString(o.err, "..."); tt.same != nil {
						o.out = tt.same.ReplaceAllString(o.out, "")
					}
				}
				if stock != ours {
					t.Errorf("old kubectl: %v\nstock:   %+v\nCulvert: %+v", old, brief(stock), brief(ours))
				}
				if !strings.Contains(ours.out, tt.want) {
					t.Errorf("old kubectl: %v: no %q in %+v", old, tt.want, brief(ours))
				}
			}
		})
	}
	t.Run("attach", func(t *testing.T) { attach(t, r, through) })
	t.Run("cp", func(t *testing.T) { copies(t, r, through) })
	t.Run("logs -f", func(t *testing.T) { follows(t, r, through) })
	t.Run("watch", func(t *testing.T) { watches(t, r, through) })
}

func brief(o outcome) outcome {
	if len(o.out) > 500 {
		o.out = o.out[:500] + "..."
	}
	return o
}

// attach reads what a pod prints from now on, over both protocols.
func attach(t *testing.T, r *rig, kubeconfig string) {
	err := r.Apply(t.Context(), `
apiVersion: v1
kind: Pod
metadata: {name: clock}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: `+cluster.ToolboxImage+`, imagePullPolicy: Never, command: [sh, -c, "while true; do echo tick; sleep 0.2; done"]}
`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Kubectl(t.Context(), "wait", "--for=condition=Ready", "pod/clock", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	for _, command := range []lab.Command{r.KubectlCommand(kubeconfig, "attach", "clock"), r.OldKubectlCommand(kubeconfig, "attach", "clock")} {
		p, err := r.Client.StartCommand(t.Context(), command)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.WaitLine(regexp.MustCompile(`^tick$`), patience); err != nil {
			t.Error(err)
		}
		p.Kill()
	}
}

// copies brings a file to a pod and back.
func copies(t *testing.T, r *rig, kubeconfig string) {
	there, back := filepath.Join(r.dir, "there"), filepath.Join(r.dir, "back")
	content := bytes.Repeat([]byte("every byte of it\n"), 200_000)
	if err := os.WriteFile(there, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []func(string, ...string) lab.Command{r.KubectlCommand, r.OldKubectlCommand} {
		os.Remove(back)
		_, err1 := r.see(t.Context(), command(kubeconfig, "cp", there, "inner:/copied"))
		out, err2 := r.see(t.Context(), command(kubeconfig, "cp", "inner:/copied", back))
		got, err3 := os.ReadFile(back)
		if err := errors.Join(err1, err2, err3); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes of %d came back: %v, %+v", len(got), len(content), err, out)
		}
	}
}

// follows reads a log as it grows.
func follows(t *testing.T, r *rig, kubeconfig string) {
	p, err := r.Client.StartCommand(t.Context(), r.KubectlCommand(kubeconfig, "logs", "-f", "--tail=0", "clock"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	for mark := range 5 { // each line as it comes, not all at the end
		if _, err := p.WaitLineFrom(mark, regexp.MustCompile(`^tick$`), patience); err != nil {
			t.Fatal(err)
		}
	}
}

// watches sees an object that is made while it watches.
func watches(t *testing.T, r *rig, kubeconfig string) {
	p, err := r.Client.StartCommand(t.Context(), r.KubectlCommand(kubeconfig, "get", "configmaps", "--watch-only", "-o", "name"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	defer func() { _, _ = r.Kubectl(context.WithoutCancel(t.Context()), "delete", "configmap", "-l", "seen=live") }()
	for i := range 100 { // until the watch is there
		name := fmt.Sprintf("seen-%d", i)
		if err := r.Apply(t.Context(), `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"`+name+`","labels":{"seen":"live"}}}`); err != nil {
			t.Fatal(err)
		}
		if _, err := p.WaitLine(regexp.MustCompile(`^configmap/seen-`), time.Second); err == nil {
			return
		}
	}
	t.Error("the watch has seen nothing")
}
