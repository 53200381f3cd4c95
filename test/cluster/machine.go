//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// machineScript makes the mount namespace of a node, in which it already runs: $1
// is the node's directory, $2 its name.
// Mounts stay in the namespace and propagate within it, as on a machine with
// systemd, since pods may ask for that. Of the settings that kubelet writes it
// gets files to write to: they are not the node's but the machine's. Its hosts
// file is that of any node, whatever the machine's is like: containerd looks up
// localhost there when it forwards ports.
const machineScript = `set -e
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/containerd /run/netns
mount --bind "$1/lib" /var/lib
mount --make-private /var/lib
mount --make-shared /var/lib
mount --bind "$1/log" /var/log
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
	file=$1/settings/${setting##*/}
	cat "/proc/sys/$setting" > "$file"
	mount --bind "$file" "/proc/sys/$setting"
done
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 %s\n' "$2" > "$1/hosts"
mount --bind "$1/hosts" /etc/hosts
hostname "$2"
echo ready
exec sleep infinity`

// startMachine starts the process that keeps a node's mount and host name
// namespaces. They end, and with them all mounts, when the last process in them does.
func startMachine(host *lab.Host, dir string) (*lab.Process, error) {
	for _, sub := range []string{"lib/kubelet", "log", "settings"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("make node %s: %w", host.Name(), err)
		}
	}
	p, err := host.StartCommand(context.Background(), lab.Command{
		Path: "unshare", Label: "machine",
		Args: []string{"--mount", "--uts", "--propagation", "private", "sh", "-c", machineScript, "machine", dir, host.Name()},
	})
	if err != nil {
		return nil, fmt.Errorf("make node %s: %w", host.Name(), err)
	}
	if _, err := p.WaitLine(regexp.MustCompile(`^ready$`), 30*time.Second); err != nil {
		p.Kill()
		return nil, fmt.Errorf("make node %s: %w", host.Name(), err)
	}
	return p, nil
}

// makeCgroup makes the cgroup of a node in every hierarchy; containerd's reaper
// removes it. Without a root of its own, kubelet would have containers put where
// those of every other runtime on the machine are, and no reaper could find them.
func makeCgroup(name string) error {
	const root = "/sys/fs/cgroup"
	hierarchies := []string{root} // cgroup v2
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); errors.Is(err, os.ErrNotExist) {
		if hierarchies, err = filepath.Glob(root + "/*/cgroup.procs"); err != nil {
			return err
		}
		for i, file := range hierarchies {
			hierarchies[i] = filepath.Dir(file)
		}
	}
	var errs []error
	for _, dir := range hierarchies {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
