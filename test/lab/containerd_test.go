//go:build linux

package lab

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// greeting dials address inside the namespace and returns all it sends after the
// client has finished.
func greeting(t *testing.T, netns, address string) string {
	t.Helper()
	conn, err := (&Namespace{label: "pod", path: netns}).Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestContainerd(t *testing.T) {
	rt := RequireRuntime(t)
	node := ForTest(t, "node").Host("node")
	ctx := t.Context()
	c, err := StartContainerd(ctx, ContainerdConfig{
		Runtime: rt, NetNS: node.NetNS(), PodCIDR: node.PodPrefix(), Bridge: "pods0",
		Log: filepath.Join(node.Network().Artifacts(), "containerd.log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		checkNothingLeft(t, c)
	}()
	web, err := c.RunPod(ctx, PodConfig{Name: "web", Args: []string{"-name", "web", "-greet", "7001"}})
	if err != nil {
		t.Fatal(err)
	}
	if !node.PodPrefix().Contains(web.IP) {
		t.Errorf("address %v is not in %v", web.IP, node.PodPrefix())
	}
	if got := greeting(t, web.NetNS(), "127.0.0.1:7001"); got != "hello from web\n" {
		t.Errorf("the pod said %q", got)
	}
	if err := c.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if got := greeting(t, web.NetNS(), "127.0.0.1:7001"); got != "hello from web\n" {
		t.Errorf("after a restart of containerd the pod said %q", got)
	}
	host, err := c.RunPod(ctx, PodConfig{Name: "host", HostNetwork: true, Args: []string{"-name", "host", "-greet", "7001"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := greeting(t, node.NetNS(), "127.0.0.1:7001"); got != "hello from host\n" || host.IP.IsValid() {
		t.Errorf("on the host's network, address %v: %q", host.IP, got)
	}
	if err := c.RemovePod(ctx, web); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(c.NetNSDir()); err != nil || len(entries) > 0 {
		t.Errorf("namespaces after removal: %v, error %v", entries, err)
	}
}

// TestContainerdCrash leaves everything to the reaper: the daemon is killed and
// cannot remove its pods.
func TestContainerdCrash(t *testing.T) {
	rt := RequireRuntime(t)
	c, err := StartContainerd(t.Context(), ContainerdConfig{Runtime: rt})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.RunPod(context.Background(), PodConfig{Name: "web", Args: []string{"-echo", "7001"}}); err != nil {
		t.Error(err)
	}
	if err := c.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := c.Halt(); err == nil {
		t.Error("a killed daemon ended without error")
	}
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	checkNothingLeft(t, c)
}

// checkNothingLeft looks for mounts, processes and cgroups of c.
func checkNothingLeft(t *testing.T, c *Containerd) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), c.dir) {
		t.Errorf("mounts are left, error %v:\n%s", err, mounts)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Error(err)
	}
	for _, path := range commands {
		if command, err := os.ReadFile(path); err == nil && strings.Contains(string(command), c.dir) {
			t.Errorf("process is left: %q", command)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/" + c.group, "/sys/fs/cgroup/*/" + c.group} {
		if groups, err := filepath.Glob(pattern); err != nil || len(groups) > 0 {
			t.Errorf("cgroups are left: %v, error %v", groups, err)
		}
	}
	if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
		t.Errorf("directory is left: %v", err)
	}
}
