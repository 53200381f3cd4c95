//go:build linux

package dataplane

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// realNode is a node with a real containerd, which its agent follows.
type realNode struct {
	*lab.Containerd
	f      *fixture
	name   string
	source []string // arguments of the agent
}

func (n *realNode) agent() *lab.Agent { return n.f.Agents[n.name] }

// run runs a pod whose greeting is says.
func (n *realNode) run(t *testing.T, cfg lab.PodConfig, says string) *lab.Pod {
	t.Helper()
	cfg.Args = services(says)
	pod, err := n.RunPod(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// pod runs a pod with all services.
func (n *realNode) pod(t *testing.T, name string) *target {
	t.Helper()
	pod := n.run(t, lab.PodConfig{Name: name}, name)
	return newTarget(t, name, n.agent(), n.f.Network.Adopt(name, pod.NetNS()), pod.IP)
}

func (n *realNode) remove(t *testing.T, pod *lab.Pod) {
	t.Helper()
	if err := n.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}

// lifecycle is what happens to pods, to containerd and to the agent on a node.
func (n *realNode) lifecycle(t *testing.T) {
	t.Run("pod made while the agent runs", n.newPod)
	t.Run("pod deleted and made again under its name", n.rebirth)
	t.Run("stream ends with its pod", n.streamEnds)
	t.Run("new sandbox for the same pod", n.newSandbox)
	t.Run("host network", n.hostNetwork)
	t.Run("containerd restarted", n.restart)
	t.Run("agent killed", n.agentKilled)
}

func (n *realNode) newPod(t *testing.T) {
	pod := n.run(t, lab.PodConfig{Name: "new"}, "new")
	n.f.forward(t, "new", greetPort).mustDial(t, greetPort, "new")
	n.remove(t, pod)
}

// refused claims that a new connection is reset, that culvert says so, and that
// the relay's line about the stream has one of the codes, a|b.
func (n *realNode) refused(t *testing.T, fw *forwarding, port int, codes string) {
	t.Helper()
	said, logged := fw.Mark(), n.f.Relay.Process.Mark()
	c, err := fw.dial(t.Context(), port)
	if err == nil {
		c.Close()
		t.Fatalf("port %d was reached: %q", port, c.greeting)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("connection ended with %v, want a reset", err)
	}
	line := regexp.MustCompile(fmt.Sprintf(`^error: forwarding \d+ -> %d: `, port))
	if _, err := fw.WaitLineFrom(said, line, patience); err != nil {
		t.Error(err)
	}
	line = regexp.MustCompile(fmt.Sprintf(`msg=stream .* port=%d .* code=(%s) `, port, codes))
	if _, err := n.f.Relay.Process.WaitLineFrom(logged, line, patience); err != nil {
		t.Error(err)
	}
}

// reaches waits until the forwarding reaches a pod whose greeting is says. Until
// then connections may fail, but none may reach another.
func (fw *forwarding) reaches(t *testing.T, port int, says string) *call {
	t.Helper()
	var c *call
	eventually(t, "connect to "+says, func() (err error) {
		c, err = fw.dial(t.Context(), port)
		return err
	})
	t.Cleanup(func() { c.Close() })
	if c.greeting != "hello from "+says+"\n" {
		t.Fatalf("%q answered for %s", c.greeting, says)
	}
	return c
}

// rebirth is what a StatefulSet does: the same name, another UID, and often the
// same address.
func (n *realNode) rebirth(t *testing.T) {
	first := n.run(t, lab.PodConfig{Name: "db-0", UID: "first"}, "db-first")
	fw := n.f.forward(t, "db-0", greetPort)
	open := fw.mustDial(t, greetPort, "db-first")
	n.remove(t, first)
	_ = open.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadAll(open.r); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the running stream did not end with its pod")
	}
	n.refused(t, fw, greetPort, "pod-not-found|wrong-node|namespace-gone")
	second := n.run(t, lab.PodConfig{Name: "db-0", UID: "second"}, "db-second")
	if err := fw.reaches(t, greetPort, "db-second").say("still the same forward"); err != nil {
		t.Error(err)
	}
	fw.end(t)
	n.remove(t, second)
}

// streamEnds goes on sending into a stream whose pod was removed. The kernel does
// not tell the agent: CNI takes the loopback device down before a reset comes.
func (n *realNode) streamEnds(t *testing.T) {
	pod := n.run(t, lab.PodConfig{Name: "doomed"}, "doomed")
	fw := n.f.forward(t, "doomed", greetPort)
	open := fw.mustDial(t, greetPort, "doomed")
	n.remove(t, pod)
	eventually(t, "the end of the stream", func() error {
		_ = open.SetDeadline(time.Now().Add(patience))
		_, err := fmt.Fprintln(open, "still there?")
		if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			return nil
		}
		return fmt.Errorf("sending into it: error %v", err)
	})
	fw.end(t)
}

// newSandbox is what a kubelet does when the process that keeps a pod's
// namespaces has died: another sandbox, the same UID.
func (n *realNode) newSandbox(t *testing.T) {
	first, err := n.RunPod(t.Context(), lab.PodConfig{Name: "web", UID: "same"})
	if err != nil {
		t.Fatal(err)
	}
	// The program runs beside the sandbox: the names of containers in it would
	// still be taken when the second sandbox starts.
	program := n.serve(t, first, "web-first")
	fw := n.f.forward(t, "web", greetPort)
	open := fw.mustDial(t, greetPort, "web-first")
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := open.say("the network outlives the first process"); err != nil {
		t.Error(err)
	}
	program.Kill()
	second := n.run(t, lab.PodConfig{Name: "web", UID: "same", Attempt: 1}, "web-second")
	fw.reaches(t, greetPort, "web-second")
	n.remove(t, first)
	fw.reaches(t, greetPort, "web-second")
	fw.end(t)
	n.remove(t, second)
}

// serve runs podserver in the network of a pod, beside its containers.
func (n *realNode) serve(t *testing.T, pod *lab.Pod, says string) *lab.Process {
	t.Helper()
	space := n.f.Network.Adopt(says, pod.NetNS())
	process, err := space.Start(t.Context(), n.f.Binaries.PodServer, services(says)...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := process.WaitLine(regexp.MustCompile(`^ready$`), patience); err != nil {
		t.Fatal(err)
	}
	return process
}

// hostNetwork has to be allowed, since it opens the node's own localhost.
func (n *realNode) hostNetwork(t *testing.T) {
	pod := n.run(t, lab.PodConfig{Name: "host", HostNetwork: true}, "host")
	fw := n.f.forward(t, "host", greetPort)
	n.refused(t, fw, greetPort, "policy")
	n.f.stopAgent(t, n.name)
	n.f.startAgent(t, n.name, append([]string{"--allow-host-network"}, n.source...)...)
	if err := fw.reaches(t, greetPort, "host").say("allowed"); err != nil {
		t.Error(err)
	}
	// Who listens on the node's localhost does not get what is meant for others.
	other := n.run(t, lab.PodConfig{Name: "other"}, "other")
	n.f.forward(t, "other", greetPort).mustDial(t, greetPort, "other").Close()
	n.remove(t, other)
	fw.end(t)
	n.remove(t, pod)
	n.f.stopAgent(t, n.name)
	n.f.startAgent(t, n.name, n.source...)
}

// restart takes containerd away: pods run on, and so do forwards to them.
func (n *realNode) restart(t *testing.T) {
	pod := n.run(t, lab.PodConfig{Name: "steady"}, "steady")
	fw := n.f.forward(t, "steady", greetPort)
	open := fw.mustDial(t, greetPort, "steady")
	if err := n.Halt(); err != nil {
		t.Fatal(err)
	}
	if err := open.say("without containerd"); err != nil {
		t.Errorf("a running stream without containerd: %v", err)
	}
	fw.mustDial(t, greetPort, "steady")
	if err := n.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := open.say("with containerd again"); err != nil {
		t.Errorf("a running stream after a restart of containerd: %v", err)
	}
	fw.mustDial(t, greetPort, "steady")
	later := n.run(t, lab.PodConfig{Name: "later"}, "later")
	n.f.forward(t, "later", greetPort).mustDial(t, greetPort, "later")
	fw.end(t)
	n.remove(t, later)
	n.remove(t, pod)
}

// agentKilled ends every stream of the node, which must not look like the end of
// what the pod had to say; the next connection works again.
func (n *realNode) agentKilled(t *testing.T) {
	pod := n.run(t, lab.PodConfig{Name: "stays"}, "stays")
	fw := n.f.forward(t, "stays", greetPort)
	open := fw.mustDial(t, greetPort, "stays")
	n.agent().Process.Kill()
	_ = open.SetDeadline(time.Now().Add(patience))
	if rest, err := io.ReadAll(open.r); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the running stream ended with %q, %v, want a reset", rest, err)
	}
	n.refused(t, fw, greetPort, "agent-offline|pod-not-found|unreachable")
	n.f.startAgent(t, n.name, n.source...)
	if err := fw.reaches(t, greetPort, "stays").say("again"); err != nil {
		t.Error(err)
	}
	fw.end(t)
	n.remove(t, pod)
}
