//go:build linux

package dataplane

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// patience is how long the tests wait for what takes milliseconds on an idle machine.
const patience = 30 * time.Second

// The services of every pod of the tests.
const (
	greetPort = 7000 // 127.0.0.1: says who it is, then echoes
	echoPort  = 7001 // 127.0.0.1
	httpPort  = 7002 // 127.0.0.1
	openPort  = 7005 // 0.0.0.0: for the controls, which go around the product
	sixPort   = 7006 // ::1 only, as greetPort
)

// The agents' health endpoint, the only thing they listen on.
const agentHealth = "127.0.0.1:7481"

// fixture is the cluster that all tests share: node1 and node2 have bare pods,
// node3 is there for containerd.
type fixture struct{ *lab.Cluster }

func newFixture(t *testing.T) *fixture {
	return &fixture{lab.NewCluster(t, lab.ClusterConfig{Nodes: []string{"node1", "node2", "node3"}})}
}

// target is a pod, of whatever kind.
type target struct {
	name  string
	agent *lab.Agent
	space *lab.Namespace
	ip    netip.Addr
	cable string // the node's end of the pod's eth0
}

// node is the host that the pod is on.
func (p *target) node() *lab.Host { return p.agent.Host }

// services are podserver's arguments for a pod whose greeting is name.
func services(name string) []string {
	return []string{
		"-name", name, "-greet", strconv.Itoa(greetPort), "-echo", strconv.Itoa(echoPort),
		"-http", strconv.Itoa(httpPort), "-greet", fmt.Sprintf("0.0.0.0:%d", openPort),
		"-greet", fmt.Sprintf("[::1]:%d", sixPort),
	}
}

func (f *fixture) barePod(t *testing.T, node, name string) *target {
	t.Helper()
	pod, err := f.PodServer(t.Context(), node, name, services(name)...)
	if err != nil {
		t.Fatal(err)
	}
	return newTarget(t, name, f.Agents[node], pod.Namespace, pod.Addr())
}

var peerIndex = regexp.MustCompile(`eth0@if(\d+):`)

// newTarget finds the node's end of the pod's cable.
func newTarget(t *testing.T, name string, agent *lab.Agent, space *lab.Namespace, ip netip.Addr) *target {
	t.Helper()
	p := &target{name: name, agent: agent, space: space, ip: ip}
	out, err := space.Run(t.Context(), "ip", "-o", "link", "show", "dev", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	match := peerIndex.FindStringSubmatch(out)
	if match == nil {
		t.Fatalf("eth0 of pod %s is no end of a cable: %s", name, out)
	}
	index, _ := strconv.Atoi(match[1])
	err = p.node().Do(func() error {
		device, err := net.InterfaceByIndex(index)
		if err == nil {
			p.cable = device.Name
		}
		return err
	})
	if err != nil {
		t.Fatalf("find the node's end of the cable of pod %s: %v", name, err)
	}
	return p
}

// makeNoise turns IPv6 on at the pod's eth0, whereupon the kernel looks for
// neighbours and routers: what no forward causes and no claim may be broken by.
func (p *target) makeNoise(t *testing.T) {
	t.Helper()
	err := p.space.Do(func() error {
		const off = "/proc/sys/net/ipv6/conf/eth0/disable_ipv6"
		// Off first: where it is on already, the noise is over.
		return errors.Join(os.WriteFile(off, []byte("1"), 0), os.WriteFile(off, []byte("0"), 0))
	})
	if err != nil {
		t.Fatalf("turn IPv6 on in pod %s: %v", p.name, err)
	}
}

// startAgent starts the agent of a node, which must not be running, with
// arguments added to its own, and waits until it is ready.
func (f *fixture) startAgent(t *testing.T, node string, extra ...string) {
	t.Helper()
	a := f.Agents[node]
	process, err := a.Host.StartCommand(context.Background(), lab.Command{ // lives as long as the network
		Path: f.Binaries.Agent, Args: append(a.Args(), extra...), Env: []string{"GORACE=atexit_sleep_ms=0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	a.Process = process
	eventually(t, "agent of "+node+" is ready", func() error {
		status, body, err := a.Get(t.Context(), "/readyz")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		return err
	})
}

func (f *fixture) stopAgent(t *testing.T, node string) {
	t.Helper()
	// Longer than its drain takes; one that had to be killed has stopped too.
	if err := f.Agents[node].Stop(2 * patience); err != nil {
		t.Errorf("stop agent of %s: %v", node, err)
	}
}

// forwarding is a running culvert port-forward.
type forwarding struct {
	*lab.Process
	client *lab.Host
	local  map[int]string // address on the client, by port of the pod
}

// forward starts culvert port-forward for ports of a pod.
func (f *fixture) forward(t *testing.T, pod string, ports ...int) *forwarding {
	t.Helper()
	args := []string{"port-forward", pod}
	for _, port := range ports {
		args = append(args, fmt.Sprintf("0:%d", port))
	}
	process, err := f.Culvert(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	fw := &forwarding{Process: process, client: f.Client, local: map[int]string{}}
	t.Cleanup(process.Kill)
	for _, port := range ports {
		line := regexp.MustCompile(fmt.Sprintf(`^Forwarding from (127\.0\.0\.1:\d+) -> %d$`, port))
		match, err := process.WaitLine(line, patience)
		if err != nil {
			t.Fatal(err)
		}
		fw.local[port] = match[1]
	}
	return fw
}

// end interrupts the forwarding and waits for its end.
func (fw *forwarding) end(t *testing.T) {
	t.Helper()
	if err := fw.Stop(patience); err != nil {
		t.Errorf("culvert port-forward: %v", err)
	}
}

// call is a connection to a service that greets and then echoes.
type call struct {
	*net.TCPConn
	r *bufio.Reader
	// greeting is the line that the service began with.
	greeting string
}

// dial connects to a port of the pod through culvert and reads the greeting.
func (fw *forwarding) dial(ctx context.Context, port int) (*call, error) {
	return dialGreeting(ctx, fw.client.Namespace, fw.local[port])
}

func dialGreeting(ctx context.Context, from *lab.Namespace, address string) (*call, error) {
	conn, err := from.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	c := &call{TCPConn: conn, r: bufio.NewReader(conn)}
	_ = c.SetDeadline(time.Now().Add(patience))
	if c.greeting, err = c.r.ReadString('\n'); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// mustDial is dial to a service whose greeting has to be that of the pod.
func (fw *forwarding) mustDial(t *testing.T, port int, name string) *call {
	t.Helper()
	c, err := fw.dial(t.Context(), port)
	if err != nil {
		t.Fatalf("port %d of pod %s: %v", port, name, err)
	}
	t.Cleanup(func() { c.Close() })
	if want := "hello from " + name + "\n"; c.greeting != want {
		t.Fatalf("port %d of pod %s said %q", port, name, c.greeting)
	}
	return c
}

// say sends a line and expects it back.
func (c *call) say(line string) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(c, line); err != nil {
		return err
	}
	got, err := c.r.ReadString('\n')
	if err == nil && got != line+"\n" {
		err = fmt.Errorf("%q came back for %q", got, line)
	}
	return err
}

// eventually repeats check until it succeeds.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// secret is a text that is nowhere else.
func secret() string { return "secret-" + rand.Text() }

// startContainerd runs a containerd on the host of node3, whose agent then
// follows it. Both last until the test ends.
func (f *fixture) startContainerd(t *testing.T) *realNode {
	t.Helper()
	programs := lab.RequireRuntime(t)
	agent := f.Agents["node3"]
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	containerd, err := lab.StartContainerd(ctx, lab.ContainerdConfig{
		Runtime: programs, NetNS: agent.Host.NetNS(), PodCIDR: agent.Host.PodPrefix(), Bridge: "pods0",
		Log: filepath.Join(f.Network.Artifacts(), "containerd.log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := containerd.Close(); err != nil {
			t.Errorf("close containerd: %v", err)
		}
	})
	n := &realNode{
		Containerd: containerd, f: f, name: "node3",
		source: []string{"--source", "containerd", "--containerd-socket", containerd.Socket()},
	}
	f.stopAgent(t, n.name)
	f.startAgent(t, n.name, n.source...)
	return n
}
