//go:build linux

package lab

import (
	"fmt"
	"os/exec"
	"syscall"
)

// containerdReaperScript removes what a containerd leaves behind: $1 its directory, $2 the
// cgroup of its pods, $3 its network namespace, $4 its bridge or nothing. It
// starts when its standard input ends: at Close, when the pods are gone already
// and only empty cgroups, the bridge and files are left, or when the test process
// died, and then shims and containers still run. Killed are only processes whose
// command line names a file below the directory, or which are in the cgroup.
const containerdReaperScript = `cat >/dev/null
dir=$1 group=$2 netns=$3 bridge=$4
for f in /proc/[0-9]*/cmdline; do
	if grep -aqF -- "$dir/" "$f" 2>/dev/null; then p=${f#/proc/}; kill -9 "${p%/cmdline}" 2>/dev/null; fi
done
groups() { for g in "/sys/fs/cgroup/$group" /sys/fs/cgroup/*/"$group"; do [ ! -d "$g" ] || echo "$g"; done; }
for try in 1 2 3 4 5 6 7 8 9 10; do
	for g in $(groups); do
		find "$g" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u | while read -r p; do kill -9 "$p" 2>/dev/null; done
		find "$g" -depth -type d -exec rmdir {} + 2>/dev/null
	done
	[ -n "$(groups)" ] || break
	sleep 0.1
done
awk -v d="$dir/" 'index($5, d) == 1 {print $5}' /proc/self/mountinfo | sort -r | while read -r m; do umount -l "$m"; done
[ -z "$bridge" ] || nsenter --net="$netns" ip link delete "$bridge" 2>/dev/null
rm -rf --one-file-system "$dir"
left=$(groups)
[ -z "$left" ] && [ ! -e "$dir" ] || { echo "left behind: $dir $left" >&2; exit 1; }`

// startContainerdReaper starts the script; its close makes it do its work.
func startContainerdReaper(dir, group, netns, bridge string) (*reaper, error) {
	cmd := exec.Command("sh", "-c", containerdReaperScript, "lab-reaper", dir, group, netns, bridge)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start reaper: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start reaper: %w", err)
	}
	return &reaper{cmd: cmd, stdin: stdin}, nil
}
