//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-k8s/culvert/test/cluster"
	"github.com/culvert-k8s/culvert/test/lab"
)

// endTimeout is how long -down waits until the cluster is gone.
const endTimeout = time.Minute

// holding is the directory of the cluster that runs, at most one at a time: its
// file "pid" is locked by the process that it names.
type holding struct {
	dir string
	pid *os.File
}

// open opens the directory and tells whether this process now holds it.
func open() (h *holding, held bool, err error) {
	root, err := lab.ModuleDir()
	if err != nil {
		return nil, false, err
	}
	dir := filepath.Join(root, ".cache", "cluster")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, false, err
	}
	pid, err := os.OpenFile(filepath.Join(dir, "pid"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, err
	}
	err = unix.Flock(int(pid.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		pid.Close()
		return nil, false, fmt.Errorf("lock %s: %w", pid.Name(), err)
	}
	return &holding{dir: dir, pid: pid}, err == nil, nil
}

// hold takes the directory for this process.
func hold() (*holding, error) {
	h, held, err := open()
	if err != nil {
		return nil, err
	}
	if !held {
		h.pid.Close()
		return nil, errors.New("a cluster is running already; make cluster-down ends it")
	}
	if err := errors.Join(h.pid.Truncate(0), write(h.pid, strconv.Itoa(os.Getpid()))); err != nil {
		return nil, errors.Join(err, h.release())
	}
	return h, nil
}

func write(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// release gives the directory back. Logs stay.
func (h *holding) release() error {
	os.Remove(filepath.Join(h.dir, "kubectl"))
	os.Remove(filepath.Join(h.dir, "on"))
	return errors.Join(h.pid.Truncate(0), h.pid.Close())
}

// writeScripts writes the commands for trying by hand.
func (h *holding) writeScripts(c *cluster.Cluster, b cluster.Binaries) error {
	var hosts strings.Builder
	for _, host := range c.Network.Hosts() {
		enter := ""
		if n := c.Nodes[host.Name()]; n != nil {
			command := n.Command(lab.Command{Path: "env"})
			enter = command.Path + " " + strings.Join(command.Args, " ")
		}
		fmt.Fprintf(&hosts, "%s) shift; exec nsenter --net=%s -- %s \"$@\" ;;\n", host.Name(), host.NetNS(), enter)
	}
	on := "#!/bin/sh\n# on HOST COMMAND...: run a command on a host of the cluster.\ncase $1 in\n" +
		hosts.String() + "*) echo \"no host $1\" >&2; exit 2 ;;\nesac\n"
	command := c.KubectlCommand(c.AdminKubeconfig)
	kubectl := fmt.Sprintf("#!/bin/sh\n# kubectl on the client host, as an administrator.\nexec %s client env %s %s \"$@\"\n",
		filepath.Join(h.dir, "on"), strings.Join(command.Env, " "), filepath.Join(b.Dir, "kubectl"))
	return errors.Join(
		os.WriteFile(filepath.Join(h.dir, "on"), []byte(on), 0o755),
		os.WriteFile(filepath.Join(h.dir, "kubectl"), []byte(kubectl), 0o755))
}

// end ends the cluster that another process runs, and waits until it is gone.
func end(ctx context.Context) error {
	h, held, err := open()
	if err != nil {
		return err
	}
	defer h.pid.Close()
	if held {
		fmt.Println("no cluster is running")
		return nil
	}
	text, err := os.ReadFile(h.pid.Name())
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("read %s: %w", h.pid.Name(), err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for {
		err := unix.Flock(int(h.pid.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of process %d: %w", pid, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}
