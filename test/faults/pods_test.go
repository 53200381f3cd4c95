//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-k8s/culvert/test/lab"
)

// gone are pods that end while they are used.
func gone() []fault {
	return []fault{
		{
			where: "pod", what: "deleted in mid-stream, and made again", hits: onlyNode1, lasts: time.Second,
			begin: func(t *testing.T, r *rig) {
				pod := r.pods["node1"]
				r.load.Vanish(pod.ln)
				must(t, pod.Delete())
			},
			end: func(t *testing.T, r *rig) { r.makePod(t, "node1") },
		},
		{where: "pod", what: "deleted under a dial", begin: deletedUnderDial},
	}
}

// deletedUnderDial takes a pod away while the agent waits for it to answer.
func deletedUnderDial(t *testing.T, r *rig) {
	pod, err := r.Pod(t.Context(), "node2", "slow")
	must(t, err)
	port := deaf(t, pod)
	_, err = r.AwaitPod(t.Context(), "node2", "slow", "")
	must(t, err)
	p, err := r.Client.StartCommand(context.Background(), r.Command("port-forward", "slow", fmt.Sprintf(":%d", port)))
	must(t, err)
	defer p.Kill()
	match, err := p.WaitLine(forwarding, patience)
	must(t, err)
	conn, err := r.Client.Dial(t.Context(), match[1])
	must(t, err)
	defer conn.Close()
	if _, err := p.WaitLine(regexp.MustCompile(`^Handling connection`), patience); err != nil {
		t.Error(err)
	}
	_ = conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the pod was to be slow: %v", err)
	}
	must(t, pod.Delete())
	began := time.Now()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err = conn.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a dial into a pod that is gone does not end")
	}
	line, err := p.WaitLine(regexp.MustCompile(`^error: forwarding \d+ -> \d+: (.*)$`), patience)
	must(t, err)
	t.Logf("a dial into a pod that was deleted ended after %v: %s", time.Since(began).Round(time.Millisecond), line[1])
}

// deaf is a port of a pod whose queue is full: it neither accepts nor refuses.
func deaf(t *testing.T, pod *lab.BarePod) int {
	t.Helper()
	var fds []int
	t.Cleanup(func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	})
	const port = 7001
	to := &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	must(t, pod.Do(func() error {
		for i := range 4 { // one listens, the others fill the queue
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			fds = append(fds, fd)
			if i > 0 {
				if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
					return err
				}
				continue
			}
			if err := unix.Bind(fd, to); err != nil {
				return err
			}
			if err := unix.Listen(fd, 0); err != nil {
				return err
			}
		}
		return nil
	}))
	return port
}

// runtime is a real containerd on node2, with the pod of that node.
type runtime struct {
	*lab.Containerd
	socket string // empty before it runs
	pod    *lab.Pod
}

// wrap makes the agent of node2 follow containerd, once there is one.
func (c *runtime) wrap(host string, command lab.Command) lab.Command {
	if host == "node2" && c.socket != "" {
		command.Args = append(command.Args, "--source", "containerd", "--containerd-socket", c.socket)
	}
	return command
}

// take puts containerd and a pod of it in the place of the bare one on node2.
func (c *runtime) take(t *testing.T, r *rig) {
	t.Helper()
	programs := lab.RequireRuntime(t)
	r.quiet(t)
	agent := r.Agents["node2"]
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var err error
	c.Containerd, err = lab.StartContainerd(ctx, lab.ContainerdConfig{
		Runtime: programs, NetNS: agent.Host.NetNS(), PodCIDR: agent.Host.PodPrefix(), Bridge: "pods0",
		Log: filepath.Join(r.Network.Artifacts(), "containerd.log"),
	})
	must(t, err)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close containerd: %v", err)
		}
	})
	bare := r.pods["node2"]
	r.load.Vanish(bare.ln)
	must(t, bare.Delete())
	must(t, agent.Stop(patience))
	c.socket = c.Socket()
	must(t, agent.Start(t.Context()))
	c.run(t, r)
	r.awaitService(t, r.flows(everybody))
	r.quiet(t)
	r.noteHoldings(t)
	r.load.Resume()
}

// run makes the pod, whose program is the test.
func (c *runtime) run(t *testing.T, r *rig) {
	t.Helper()
	var err error
	c.pod, err = c.RunPod(t.Context(), lab.PodConfig{Name: "web-node2", UID: fmt.Sprintf("uid-%d", time.Now().UnixNano())})
	must(t, err)
	ln, err := r.Network.Adopt("web-node2", c.pod.NetNS()).Listen(fmt.Sprintf("127.0.0.1:%d", podPort))
	must(t, err)
	r.pods["node2"] = &pod{ln: ln}
	r.load.Serve(ln)
}

func (c *runtime) faults() []fault {
	signal := func(sig syscall.Signal) func(*testing.T, *rig) {
		return func(t *testing.T, _ *rig) { must(t, c.Signal(sig)) }
	}
	return []fault{
		{where: "containerd", what: "kill -9", lasts: time.Second, begin: signal(syscall.SIGKILL), end: func(t *testing.T, _ *rig) {
			_ = c.Halt() // it says that it was killed
			must(t, c.Resume(t.Context()))
		}},
		{where: "containerd", what: "stopped for 3 s", lasts: longTime, begin: signal(syscall.SIGSTOP), end: signal(syscall.SIGCONT)},
		{
			where: "containerd", what: "pod removed in mid-stream, and run again", hits: onlyNode2, lasts: time.Second,
			begin: func(t *testing.T, r *rig) {
				must(t, c.RemovePod(t.Context(), c.pod))
				r.load.Vanish(r.pods["node2"].ln) // the kernel tells nobody: the loopback device is down
			},
			end: c.run,
		},
	}
}
