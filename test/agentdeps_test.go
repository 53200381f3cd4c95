package test

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write test/agent-deps.txt anew")

// agentDeps is the committed list of what is linked into culvert-agent.
const agentDeps = "agent-deps.txt"

// TestAgentDependencies compares what culvert-agent links with a committed
// list, so that every addition to a privileged program is seen in a review.
func TestAgentDependencies(t *testing.T) {
	if _, err := os.Stat("../cmd"); errors.Is(err, fs.ErrNotExist) {
		t.Skip("no commands yet")
	}
	got := linked(t, "./cmd/culvert-agent")
	for _, pkg := range got {
		for _, banned := range []string{"k8s.io/", "sigs.k8s.io/", module + "/forward/relay", module + "/forward/client"} {
			if strings.HasPrefix(pkg, banned) {
				t.Errorf("culvert-agent links %s: it is privileged on every node, and needs no part of the Kubernetes API, the relay or the client", pkg)
			}
		}
	}
	if *update {
		if err := os.WriteFile(agentDeps, []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(agentDeps)
	if err != nil {
		t.Fatalf("%v (go test ./test -run TestAgentDependencies -update writes it)", err)
	}
	want := strings.Fields(string(text))
	for _, pkg := range got {
		if !slices.Contains(want, pkg) {
			t.Errorf("culvert-agent links %s, which %s does not name", pkg, agentDeps)
		}
	}
	for _, pkg := range want {
		if !slices.Contains(got, pkg) {
			t.Errorf("%s names %s, which culvert-agent does not link any more", agentDeps, pkg)
		}
	}
	if t.Failed() {
		t.Log("if this is wanted: go test ./test -run TestAgentDependencies -update, and commit the list")
	}
}

// linked returns the sorted packages outside the standard library that are
// linked into the command, on the platform that releases are built for.
func linked(t *testing.T, command string) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", command)
	list.Dir = ".."
	list.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	var stderr strings.Builder
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("list what %s links: %v\n%s", command, err, stderr.String())
	}
	pkgs := strings.Fields(string(out))
	slices.Sort(pkgs)
	return pkgs
}
