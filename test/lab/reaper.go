//go:build linux

package lab

import (
	"fmt"
	"io"
	"os/exec"
	"syscall"
)

// reaperScript waits until its standard input ends, which the kernel sees to
// however the test process dies, then unmounts what lies below the directory $1
// and removes it. The ordinary way is Network.Close; this one is for a test that
// is killed, panics outside a test function or runs into the test timeout.
const reaperScript = `cat >/dev/null
[ -d "$1" ] || exit 0
sleep 0.2
awk -v d="$1/" 'index($5, d) == 1 {print $5}' /proc/self/mountinfo | sort -r | while read -r m; do umount -l "$m"; done
rm -rf --one-file-system "$1"`

// reaper is the process that cleans up after a test process that could not.
type reaper struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

func startReaper(dir string) (*reaper, error) {
	cmd := exec.Command("sh", "-c", reaperScript, "lab-reaper", dir)
	// A group of its own: Ctrl-C at the terminal must not end the reaper too.
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

// close lets the reaper end and waits for it.
func (r *reaper) close() error {
	r.stdin.Close()
	if err := r.cmd.Wait(); err != nil {
		return fmt.Errorf("end reaper: %w", err)
	}
	return nil
}
