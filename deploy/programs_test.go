package deploy_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// program builds a command of the product.
func program(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", "grpcnotrace", "-o", file, "./cmd/"+name)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return file
}

// TestProgramsTakeTheirFlags starts both programs with what the chart gives them:
// a flag that a program does not know would only show in a cluster. Each ends at
// the first thing that is wrong here, after all flags were found to go together.
func TestProgramsTakeTheirFlags(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the programs")
	}
	for _, tt := range []struct {
		name, container, extra string
		ends                   []string
	}{
		// There is no API server here, nor a certificate where the chart mounts it.
		{"culvert-relay", "relay", "", []string{"where is the API server?", "stat /etc/culvert/relay-tls/tls.crt"}},
		// The last of what the agent checks.
		{"culvert-agent", "agent", "--max-dials=0", []string{"--max-dials 0 is not a positive number"}},
		{"culvert-agent", "broker", "--max-dials=0", []string{"--max-dials 0 is not a positive number"}},
	} {
		file := program(t, tt.name)
		for name, values := range valueFiles(t) {
			for _, o := range decode(t, name, values) {
				for _, c := range o.containers() {
					if c["name"] == tt.container {
						startWith(t, name, file, c, tt.extra, tt.ends)
					}
				}
			}
		}
	}
}

// startWith starts a program as a container would, and wants it to end in one of
// some ways.
func startWith(t *testing.T, name, file string, container map[string]any, extra string, ends []string) {
	t.Helper()
	var args []string
	for _, arg := range container["args"].([]any) {
		args = append(args, fmt.Sprint(arg))
	}
	if extra != "" {
		args = append(args, extra)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, args...)
	for _, one := range list(container, "env") {
		// What a pod would be given at its start.
		value := map[any]string{"NODE_NAME": "node1", "GOMEMLIMIT": "67108864"}[one["name"]]
		cmd.Env = append(cmd.Env, fmt.Sprintf("%v=%s", one["name"], value))
	}
	if strings.Contains(strings.Join(args, " "), "--allow-apiserver") {
		cmd.Env = append(cmd.Env, "KUBERNETES_SERVICE_HOST=192.0.2.1", "KUBERNETES_SERVICE_PORT=443")
	}
	out, err := cmd.CombinedOutput()
	expected := slices.ContainsFunc(ends, func(end string) bool { return strings.Contains(string(out), end) })
	if err == nil || !expected {
		t.Errorf("%s: %s %q: %v\n%s\nwant it to end with one of %q", name, filepath.Base(file), args, err, out, ends)
	}
}
