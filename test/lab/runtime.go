//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// runtimeEnv, set to "required", makes a missing container runtime an error: for
// continuous integration, where a skipped test would hide a broken build.
const runtimeEnv = "CULVERT_TEST_RUNTIME"

// podServerPackage is the program inside the test pods.
const podServerPackage = "github.com/culvert-k8s/culvert/test/lab/podserver"

// errNoRuntime reports programs that are not there.
var errNoRuntime = errors.New("not found; make runtime builds it")

// Runtime says where the programs of a container runtime are.
type Runtime struct {
	// Bin is the directory of containerd, containerd-shim-runc-v2, ctr and runc.
	Bin string
	// CNI is the directory of the plugins bridge, host-local and loopback.
	CNI string
}

// FindRuntime looks for the programs in .cache/bin of the module and for the
// plugins where distributions put them.
func FindRuntime() (Runtime, error) {
	root, err := ModuleDir()
	if err != nil {
		return Runtime{}, err
	}
	rt := Runtime{Bin: filepath.Join(root, ".cache", "bin")}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc"} {
		if _, err := os.Stat(filepath.Join(rt.Bin, name)); err != nil {
			return Runtime{}, fmt.Errorf("find %s: %w", name, errNoRuntime)
		}
	}
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"} {
		if _, err := os.Stat(filepath.Join(dir, "host-local")); err == nil {
			rt.CNI = dir
			return rt, nil
		}
	}
	return Runtime{}, errors.New("find CNI plugins: package containernetworking-plugins is not installed")
}

// RequireRuntime returns what FindRuntime finds. Without root or without the
// programs it skips the test, or fails it if the environment variable
// CULVERT_TEST_RUNTIME is "required".
func RequireRuntime(t TB) Runtime {
	t.Helper()
	required := os.Getenv(runtimeEnv) == "required"
	if os.Geteuid() != 0 {
		if required {
			t.Fatalf("%s=required, but the test does not run as root", runtimeEnv)
		}
		t.Skipf("runs containers, which needs root")
	}
	rt, err := FindRuntime()
	switch {
	case err != nil && required:
		t.Fatalf("%s=required, but: %v", runtimeEnv, err)
	case err != nil:
		t.Skipf("no container runtime: %v", err)
	}
	return rt
}

// BuildPodServer builds the program podserver, static, into dir and returns its
// path. The working directory must be inside the module.
func BuildPodServer(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "podserver")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, podServerPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build podserver: %w: %s", err, out)
	}
	return path, nil
}
