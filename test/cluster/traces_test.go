//go:build linux

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dieEnv makes the test binary the process that TestKilled kills.
const dieEnv = "CLUSTER_TEST_DIE"

// footprints are what command lines, mounts and cgroups of a cluster have in
// their names: its directories, each with a name of its own. The number of a
// process may be added.
func footprints(c *Cluster) []string {
	prints := []string{c.Network.Dir()}
	for _, n := range c.Nodes {
		prints = append(prints, filepath.Join(os.TempDir(), n.Containerd.Cgroup()))
	}
	return prints
}

// remains looks for processes, mounts, cgroups and files of a cluster.
func remains(prints []string) []string {
	var left []string
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, mark := range prints {
		if pid, err := strconv.Atoi(mark); err == nil {
			if !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				left = append(left, "process "+mark)
			}
			continue
		}
		if bytes.Contains(mounts, []byte(mark)) {
			left = append(left, "mount below "+mark)
		}
		for _, path := range commands {
			command, err := os.ReadFile(path)
			if err == nil && bytes.Contains(command, []byte(mark+"/")) {
				left = append(left, string(bytes.ReplaceAll(command, []byte{0}, []byte{' '})))
			}
		}
		if _, err := os.Lstat(mark); !errors.Is(err, os.ErrNotExist) {
			left = append(left, mark)
		}
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(mark))
		left = append(left, groups...)
	}
	return left
}

// machineTraces lists what a kubelet makes and changes on a machine that is its own.
func machineTraces() []string {
	var traces []string
	for _, path := range []string{"/var/lib/kubelet", "/var/log/containers", "/var/log/pods", "/run/containerd", "/run/netns"} {
		_, err := os.Lstat(path)
		traces = append(traces, fmt.Sprint(path, err == nil))
	}
	for _, setting := range []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"} {
		value, _ := os.ReadFile("/proc/sys/" + setting)
		traces = append(traces, setting+"="+strings.TrimSpace(string(value)))
	}
	host, _ := os.Hostname()
	return append(traces, host)
}

// TestKilled kills a process that has a cluster with a pod, and wants all of it
// gone.
func TestKilled(t *testing.T) {
	Require(t)
	if os.Getenv(dieEnv) != "" {
		dieWithCluster(t)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), dieEnv+"=1")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the victim ended with %v: %s", err, out)
	}
	prints := strings.Fields(string(out))
	if len(prints) != 3 {
		t.Fatalf("the victim said %q", out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	err = Await(ctx, "the end of everything", func(context.Context) error {
		if left := remains(prints); left != nil {
			return fmt.Errorf("left: %q", left)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func dieWithCluster(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c, err := Start(ctx, Config{Binaries: Require(t), Nodes: []string{"node"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(ctx, strings.Replace(workload, "replicas: 2", "replicas: 1", 1)); err != nil {
		t.Fatal(errors.Join(err, c.Close()))
	}
	if _, err := c.Kubectl(ctx, "rollout", "status", "deployment/web"); err != nil {
		t.Fatal(errors.Join(err, c.Close()))
	}
	pod, err := c.Nodes["node"].Containerd.FindPod(ctx, "default", list(t, c)[0].Metadata.Name)
	if err != nil {
		t.Fatal(errors.Join(err, c.Close()))
	}
	fmt.Println(strings.Join(footprints(c), " "), pod.PID)
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
