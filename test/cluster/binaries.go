//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// clusterEnv, set to "required", makes missing binaries an error: for continuous
// integration, where a skipped test would hide a broken build.
const clusterEnv = "CULVERT_TEST_CLUSTER"

// errNoBinaries reports programs that are not there.
var errNoBinaries = errors.New("not found; make cluster-binaries builds it")

// Binaries says where the programs of a cluster are.
type Binaries struct {
	// Runtime is where containerd and its companions are.
	Runtime lab.Runtime
	// Dir is the directory of etcd, kubectl and the programs of Kubernetes.
	Dir string
}

// FindBinaries looks for all programs in .cache/bin of the module.
func FindBinaries() (Binaries, error) {
	rt, err := lab.FindRuntime()
	if err != nil {
		return Binaries{}, err
	}
	b := Binaries{Runtime: rt, Dir: rt.Bin}
	for _, name := range []string{
		"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl", oldKubectl, dnsProgram,
	} {
		if _, err := os.Stat(b.path(name)); err != nil {
			return Binaries{}, fmt.Errorf("find %s: %w", name, errNoBinaries)
		}
	}
	return b, nil
}

func (b Binaries) path(name string) string { return filepath.Join(b.Dir, name) }

// Require returns what FindBinaries finds. Without root or without the programs
// it skips the test, or fails it if the environment variable
// CULVERT_TEST_CLUSTER is "required".
func Require(t lab.TB) Binaries {
	t.Helper()
	var b Binaries
	err := errors.New("needs root")
	if os.Geteuid() == 0 {
		b, err = FindBinaries()
	}
	if err != nil {
		if os.Getenv(clusterEnv) == "required" {
			t.Fatalf("%s=required, but a cluster cannot be run: %v", clusterEnv, err)
		}
		t.Skipf("runs a Kubernetes cluster: %v", err)
	}
	return b
}

// ForTest starts a cluster that ends with the test, which fails if something
// cannot be cleaned up. It sets Config.Binaries and Config.Artifacts. It skips
// the test as Require does.
func ForTest(t lab.TB, cfg Config) *Cluster {
	t.Helper()
	cfg.Binaries = Require(t)
	cfg.Artifacts = lab.Artifacts(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c, err := Start(ctx, cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("%v", err)
		}
	})
	for _, phase := range c.Phases {
		t.Logf("%6.1f s  %s", phase.Took.Seconds(), phase.Name)
	}
	return c
}
