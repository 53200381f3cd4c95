//go:build linux

package faults

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-k8s/culvert/test/lab"
)

// descriptors takes from a process the right to open more than a few files.
func descriptors() []fault {
	agent := func(r *rig) program { return r.programs()[1] }
	client := func(r *rig) program { return r.clients()[0] }
	return []fault{
		withoutDescriptors("agent", onlyNode1, agent),
		withoutDescriptors("client", nearOnNode1, client),
		relayWithoutDescriptors(),
	}
}

func withoutDescriptors(where string, hits place, of func(*rig) program) fault {
	var old unix.Rlimit
	return fault{
		where: where, what: "no file descriptors for 3 s", hits: hits, gentle: true, lasts: longTime,
		begin: func(t *testing.T, r *rig) {
			p := of(r)
			old = setDescriptors(t, p.process, nextFile(t, p.process))
		},
		end: func(t *testing.T, r *rig) { setDescriptors(t, of(r).process, old.Cur) },
	}
}

// relayWithoutDescriptors leaves the relay none at all. Its sessions live on; who
// comes anew waits until it has some again.
func relayWithoutDescriptors() fault {
	var old unix.Rlimit
	var late *lab.Process
	return fault{
		where: "relay", what: "no file descriptors for 3 s", lasts: longTime,
		begin: func(t *testing.T, r *rig) {
			old = setDescriptors(t, r.Relay.Process, nextFile(t, r.Relay.Process))
			var err error
			late, err = r.Culvert(t.Context(), "get", "pods", "--all-namespaces")
			must(t, err)
		},
		end: func(t *testing.T, r *rig) {
			select {
			case <-late.Done():
				t.Errorf("a session was made without a descriptor, or given up: %q", late.Lines())
			default:
			}
			setDescriptors(t, r.Relay.Process, old.Cur)
			if code := late.ExitCode(); code != 0 {
				t.Errorf("who came meanwhile was not served afterwards: exit code %d, %q", code, late.Lines())
			}
		},
	}
}

// nextFile is the number that the next file of a process would get: a limit of that
// leaves it only what it has.
func nextFile(t *testing.T, p *lab.Process) uint64 {
	t.Helper()
	open, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.Pid()), "fd"))
	must(t, err)
	taken := map[string]bool{}
	for _, entry := range open {
		taken[entry.Name()] = true
	}
	for n := uint64(0); ; n++ {
		if !taken[strconv.FormatUint(n, 10)] {
			return n
		}
	}
}

func setDescriptors(t *testing.T, p *lab.Process, n uint64) (old unix.Rlimit) {
	t.Helper()
	must(t, unix.Prlimit(p.Pid(), unix.RLIMIT_NOFILE, nil, &old))
	limit := unix.Rlimit{Cur: n, Max: old.Max}
	must(t, unix.Prlimit(p.Pid(), unix.RLIMIT_NOFILE, &limit, nil))
	return old
}

// logDisk is a small file system that relay and agents write their logs to.
type logDisk struct{ dir string }

// newLogDisk mounts 64 KiB. It is unmounted after everything that writes to it.
func newLogDisk(t *testing.T) *logDisk {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("logs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return &logDisk{dir}
}

// wrap sends the standard error of a daemon to the disk.
func (d *logDisk) wrap(host string, command lab.Command) lab.Command {
	command.Args = append([]string{"-c", `exec "$0" "$@" 2>>` + filepath.Join(d.dir, host+".log"), command.Path}, command.Args...)
	command.Path = "sh"
	return command
}

// full is nothing to users, and logs go on when there is room again.
func (d *logDisk) full() fault {
	filler := filepath.Join(d.dir, "filler")
	return fault{
		where: "logs", what: "disk full for 3 s", lasts: longTime,
		begin: func(t *testing.T, _ *rig) {
			err := os.WriteFile(filler, make([]byte, 1<<20), 0o600)
			if err == nil {
				t.Fatal("the disk is not full")
			}
		},
		end: func(t *testing.T, r *rig) {
			for _, host := range []string{"relay", "node1", "node2"} {
				must(t, os.Truncate(filepath.Join(d.dir, host+".log"), 0))
			}
			must(t, os.Remove(filler))
			d.awaitLine(t, r)
		},
	}
}

// awaitLine waits until the relay has logged a stream again.
func (d *logDisk) awaitLine(t *testing.T, r *rig) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(d.dir, r.Relay.Host.Name()+".log"))
		if err == nil && strings.Contains(string(text), "msg=stream") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the relay does not log any more: %v", err)
		}
	}
}
