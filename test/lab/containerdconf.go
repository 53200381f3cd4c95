//go:build linux

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"
)

// ContainerdConfig says how a containerd of the lab is run. Only Runtime is
// required.
type ContainerdConfig struct {
	// Runtime is where the programs are; see FindRuntime.
	Runtime Runtime
	// NetNS is the path of the network namespace that containerd and its bridge
	// live in: that of a lab host, with its loopback device up. Empty means the
	// namespace of the test process.
	NetNS string
	// MountNS, if not nil, is a process in whose mount and host name namespaces
	// containerd and its pods are. It sees the temporary directory at the same
	// path as the test process.
	MountNS *Process
	// PodCIDR is the IPv4 subnet of the pods. Zero means 10.213.0.0/24.
	PodCIDR netip.Prefix
	// Bridge is the bridge device the pods are plugged into, at most 15
	// characters. A bridge that is not there is made, and belongs to the caller.
	// Empty means one of its own, removed by Close.
	Bridge string
	// NetNSInRun puts the namespaces of the pods under /run/netns, as on a
	// real node. By default they are in the state directory.
	NetNSInRun bool
	// Log is the file that the output of containerd is written to. Empty means
	// none; the last lines are in errors all the same.
	Log string
}

// maxTempDir is how long the path of the temporary directory may be, so that
// sockets below it fit into a socket address.
const maxTempDir = 38

var containerdTemplate = template.Must(template.New("containerd").Parse(`version = 3
root = '{{.Dir}}/root'
state = '{{.Dir}}/state'
imports = []
disabled_plugins = [
	'io.containerd.nri.v1.nri', 'io.containerd.tracing.processor.v1.otlp', 'io.containerd.internal.v1.tracing',
	'io.containerd.snapshotter.v1.blockfile', 'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.devmapper',
	'io.containerd.snapshotter.v1.erofs', 'io.containerd.snapshotter.v1.zfs', 'io.containerd.monitor.container.v1.restart',
	'io.containerd.image-verifier.v1.bindir',
]
[grpc]
address = '{{.Dir}}/run/containerd.sock'
[ttrpc]
address = '{{.Dir}}/run/containerd.sock.ttrpc'
[plugins.'io.containerd.internal.v1.opt']
path = '{{.Dir}}/opt'
[plugins.'io.containerd.metadata.v1.bolt']
no_sync = true
[plugins.'io.containerd.shim.v1.manager']
socket_dir = '{{.Dir}}/s'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{{.PauseImage}}'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = {{not .NetNSInRun}}
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '{{.Runtime.Bin}}/runc'
Root = '{{.Dir}}/runc'
SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{{.Runtime.CNI}}']
conf_dir = '{{.Dir}}/cni'
`))

// write puts the configuration of containerd and of the network into dir.
func (cfg ContainerdConfig) write(dir string) error {
	if len(dir) > maxTempDir {
		return fmt.Errorf("%s is too long a directory for sockets", dir)
	}
	for _, sub := range []string{"cni", "s", "opt", "logs", "run"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(dir, "config.toml"))
	if err != nil {
		return err
	}
	err = containerdTemplate.Execute(f, struct {
		ContainerdConfig
		Dir, PauseImage string
	}{cfg, dir, PauseImage})
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	network, err := json.MarshalIndent(cfg.network(dir), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cni", "10-lab.conflist"), network, 0o600)
}

// network is the CNI configuration: a bridge that is the pods' gateway.
func (cfg ContainerdConfig) network(dir string) any {
	return map[string]any{
		"cniVersion": "1.0.0",
		"name":       "lab",
		"plugins": []any{map[string]any{
			"type": "bridge", "bridge": cfg.Bridge, "isGateway": true, "hairpinMode": true,
			"ipam": map[string]any{
				"type":    "host-local",
				"dataDir": filepath.Join(dir, "ipam"),
				"ranges":  [][]any{{map[string]any{"subnet": cfg.PodCIDR.String()}}},
				"routes":  []any{map[string]any{"dst": "0.0.0.0/0"}},
			},
		}},
	}
}
