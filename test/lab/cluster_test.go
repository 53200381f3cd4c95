//go:build linux

package lab

import (
	"net/netip"
	"strings"
	"testing"
)

// TestCluster brings a cluster up, reaches a pod through it, and takes its parts
// down and up again.
func TestCluster(t *testing.T) {
	c := NewCluster(t, ClusterConfig{Proxies: true})
	pod, err := c.PodServer(t.Context(), "node2", "web", "-echo", "7000")
	if err != nil {
		t.Fatal(err)
	}
	expectEcho(t, c, "web", "7000")
	// Another pod of the same name, of which the relay learns in time.
	if err := pod.Delete(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PodServer(t.Context(), "node2", "web", "-echo", "7001"); err != nil {
		t.Fatal(err)
	}
	expectEcho(t, c, "web", "7001")

	node2 := c.Agents["node2"]
	all, err := node2.Host.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	held, err := node2.Process.Sockets(Listeners(all))
	if err != nil || len(held) != 1 || held[0].Local != netip.MustParseAddrPort(agentHealth) {
		t.Errorf("the agent listens on %v, %v", held, err)
	}
	if s := node2.Proxy.Stats(); s.Open == 0 || s.Up == 0 {
		t.Errorf("the proxy saw nothing: %+v", s)
	}
	if status, body, err := node2.Get(t.Context(), "/metrics"); err != nil || status != 200 || body == "" {
		t.Errorf("metrics: %d, %v", status, err)
	}

	if err := node2.Stop(longEnough); err != nil {
		t.Errorf("stop agent: %v", err)
	}
	c.Relay.Process.Kill()
	if err := c.Relay.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := node2.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AwaitPod(t.Context(), "node2", "web", ""); err != nil {
		t.Fatal(err)
	}
	expectEcho(t, c, "web", "7001")
}

// expectEcho reaches the echo service of a pod with culvert nc.
func expectEcho(t *testing.T, c *Cluster, pod, port string) {
	t.Helper()
	command := c.Command("nc", "pod/"+pod, port)
	command.Stdin = strings.NewReader("hello\n")
	if out, err := c.Client.RunCommand(t.Context(), command); err != nil || out != "hello\n" {
		t.Fatalf("through culvert came %q, %v", out, err)
	}
}
