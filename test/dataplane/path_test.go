//go:build linux

package dataplane

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/test/lab"
)

// scene is what a proof is about: two pods with the same ports on one node, and
// a third with the same ports on another node.
type scene struct {
	f         *fixture
	near, two *target
	far       *target
	agentArgs []string // that the near node's agent needs beyond its own
}

func TestDataPlane(t *testing.T) {
	f := newFixture(t)
	far := f.barePod(t, "node2", "far-pod")
	t.Run("bare pods", func(t *testing.T) {
		s := &scene{f: f, near: f.barePod(t, "node1", "bare-one"), two: f.barePod(t, "node1", "bare-two"), far: far}
		t.Run("path", s.prove)
		t.Run("cost of a request", func(t *testing.T) { cost(t, f, s.near) })
	})
	t.Run("containerd", func(t *testing.T) {
		n := f.startContainerd(t)
		s := &scene{f: f, near: n.pod(t, "real-one"), two: n.pod(t, "real-two"), far: far, agentArgs: n.source}
		t.Run("path", s.prove)
		t.Run("lifecycle", n.lifecycle)
	})
}

// prove runs forwards under captures and holds every claim against what they saw.
func (s *scene) prove(t *testing.T) {
	traps := decoys(t, s.near.node(), s.f.Relay.Host)
	p := s.play(t)
	for _, claim := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"nothing crosses the pod's eth0 nor its cable nor the bridge", p.podWireIsQuiet},
		{"pod's loopback has localhost to localhost only", p.podLoIsLocal},
		{"IPv6-only listener is reached at ::1", p.ipv6Only},
		{"node opens its only connection", p.oneTunnel},
		{"client and node never meet", p.clientAndNodeApart},
		{"relay dials nobody", p.relayAnswers},
		{"nothing can be read on the wires", p.payloadIsHidden},
		{"pods with the same port are not mixed up", p.podsApart},
		{"agent listens on nothing but health", p.agentListens},
		{"connections in the pod's own table are local", p.tables},
		{"node's own loopback has health checks only", p.nodeLoIsQuiet},
		{"decoys are not reached", func(t *testing.T) {
			for _, d := range traps {
				if n := d.reached.Load(); n > 0 {
					t.Errorf("the decoy at %s in %s was reached %d times", d.address, d.space.Name(), n)
				}
			}
		}},
		{"each pod through its own node's tunnel", s.ownTunnel},
		{"control: the captures would have seen it", func(t *testing.T) { s.controls(t, traps) }},
	} {
		t.Run(claim.name, claim.test)
	}
}

// performance is a run of forwards to both pods of the near node, and what was
// seen of it.
type performance struct {
	*scene
	evidence
	secrets map[*target]string // what went to and from each pod

	// While the forwards were open:
	podSockets   map[*target][]lab.Socket
	agentSockets []lab.Socket
	agentAll     string // sockets of all kinds, as ss(8) lists them
	tunnels      []lab.Socket
}

// play records everything from before the agent connects until after the last
// forward has ended.
func (s *scene) play(t *testing.T) *performance {
	t.Helper()
	p := &performance{scene: s, secrets: map[*target]string{}, podSockets: map[*target][]lab.Socket{}}
	// The agent joined long ago: with its certificate it needs one connection only.
	s.f.stopAgent(t, s.near.agent.Node)
	end := record(t, s.f.taps(s.near, s.two))
	s.near.makeNoise(t)
	s.two.makeNoise(t)
	s.f.startAgent(t, s.near.agent.Node, s.agentArgs...)
	var forwards []*forwarding
	var calls []*call
	for _, pod := range []*target{s.near, s.two} {
		fw := s.f.forward(t, pod.name, greetPort, echoPort, sixPort)
		forwards = append(forwards, fw)
		p.secrets[pod] = secret()
		for _, port := range []int{greetPort, sixPort} {
			c := fw.mustDial(t, port, pod.name)
			if err := c.say(p.secrets[pod]); err != nil {
				t.Fatalf("talk to port %d of pod %s: %v", port, pod.name, err)
			}
			calls = append(calls, c)
		}
		if err := fw.echo(t, 256<<10); err != nil {
			t.Fatalf("echo of pod %s: %v", pod.name, err)
		}
	}
	p.look(t)
	for _, c := range calls {
		c.Close()
	}
	for _, pod := range []*target{s.near, s.two} {
		eventually(t, "connections of pod "+pod.name+" end", func() error { return idle(pod) })
	}
	for _, fw := range forwards {
		fw.end(t)
	}
	p.evidence = end()
	return p
}

// idle claims that a pod has no open connection.
func idle(pod *target) error {
	sockets, err := pod.space.Sockets()
	if err != nil {
		return err
	}
	for _, s := range sockets {
		if s.State != lab.Listening && s.State != lab.TimeWait {
			return fmt.Errorf("%s -> %s is %s", s.Local, s.Remote, s.State)
		}
	}
	return nil
}

// look notes the sockets while the forwards are open.
func (p *performance) look(t *testing.T) {
	t.Helper()
	var err error
	for _, pod := range []*target{p.near, p.two} {
		if p.podSockets[pod], err = pod.space.Sockets(); err != nil {
			t.Fatal(err)
		}
	}
	agent := p.near.agent
	all, err := agent.Host.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	if p.agentSockets, err = agent.Process.Sockets(all); err != nil {
		t.Fatal(err)
	}
	if p.agentAll, err = agent.Host.Run(t.Context(), "ss", "-H", "-l", "-n", "-p"); err != nil {
		t.Fatal(err)
	}
	relay := netip.MustParseAddrPort(p.f.Relay.Addr())
	p.tunnels = lab.SelectSockets(all, func(s *lab.Socket) bool { return s.Remote == relay && s.State == lab.Established })
}

func (p *performance) both() []*target { return []*target{p.near, p.two} }

func (p *performance) podWireIsQuiet(t *testing.T) {
	places := []string{nodeBridge}
	for _, pod := range p.both() {
		places = append(places, pod.name+podWire, pod.name+podCable)
	}
	for _, place := range places {
		if err := quiet(p.evidence[place]); err != nil {
			t.Errorf("%s: %v", place, err)
		}
		if !slices.ContainsFunc(p.evidence[place], func(p lab.Packet) bool { return isNoise(&p) }) {
			t.Errorf("%s: the IPv6 noise that the test caused was not captured", place)
		}
	}
}

func (p *performance) podLoIsLocal(t *testing.T) {
	for _, pod := range p.both() {
		if err := onlyLocal(p.evidence[pod.name+podLo], greetPort, echoPort, sixPort); err != nil {
			t.Errorf("%s: %v", pod.name, err)
		}
	}
}

func (p *performance) ipv6Only(t *testing.T) {
	for _, pod := range p.both() {
		packets := p.evidence[pod.name+podLo]
		if !hasData(packets, loopback6, sixPort) || hasData(packets, loopback4, sixPort) {
			t.Errorf("%s: port %d was not served at ::1 only", pod.name, sixPort)
		}
		if !hasData(packets, loopback4, greetPort) || hasData(packets, loopback6, greetPort) {
			t.Errorf("%s: port %d was not served at 127.0.0.1 only", pod.name, greetPort)
		}
	}
}

func (p *performance) oneTunnel(t *testing.T) {
	relay := netip.MustParseAddrPort(p.f.Relay.Addr())
	if err := oneTunnel(p.evidence[nodeWire], p.near.node().Addr(), relay); err != nil {
		t.Error(err)
	}
	if len(p.tunnels) != 1 {
		t.Errorf("connections to the relay in the node's table: %v, want one", p.tunnels)
	}
}

func (p *performance) clientAndNodeApart(t *testing.T) {
	for _, place := range []string{clientWire, nodeWire, relayWire} {
		if err := apart(p.evidence[place], p.f.Client.Addr(), p.nodePrefixes()...); err != nil {
			t.Errorf("%s: %v", place, err)
		}
	}
}

// nodePrefixes are the addresses of the near node and of its pods.
func (s *scene) nodePrefixes() []netip.Prefix {
	node := s.near.node()
	return []netip.Prefix{netip.PrefixFrom(node.Addr(), 32), node.PodPrefix()}
}

func (p *performance) relayAnswers(t *testing.T) {
	if err := answers(p.evidence[relayWire], p.f.Relay.Host.Addr()); err != nil {
		t.Error(err)
	}
}

func (p *performance) payloadIsHidden(t *testing.T) {
	for _, pod := range p.both() {
		for _, place := range []string{clientWire, relayWire, nodeWire} {
			if err := hidden(p.evidence[place], p.secrets[pod], "hello from", pod.name); err != nil {
				t.Errorf("%s: %v", place, err)
			}
		}
		for _, place := range []string{clientLo, pod.name + podLo} {
			if hidden(p.evidence[place], p.secrets[pod]) == nil {
				t.Errorf("%s: what was said to %s cannot be read there either", place, pod.name)
			}
		}
	}
}

func (p *performance) podsApart(t *testing.T) {
	for _, pod := range p.both() {
		for other, said := range p.secrets {
			if err := hidden(p.evidence[pod.name+podLo], said); (err == nil) == (pod == other) {
				t.Errorf("what was said to %s, on the loopback of %s: %v", other.name, pod.name, err)
			}
		}
	}
}

func (p *performance) agentListens(t *testing.T) {
	if err := listensAt(p.agentSockets, agentHealth); err != nil {
		t.Errorf("TCP: %v", err)
	}
	// ss knows sockets of every kind: UDP, raw, packet, UNIX, netlink.
	mine := fmt.Sprintf("pid=%d,", p.near.agent.Process.Pid())
	// A TCP listener that also takes multipath TCP has two lines.
	health := regexp.MustCompile(`^(tcp|mptcp) LISTEN \d+ \d+ ` + regexp.QuoteMeta(agentHealth) + ` `)
	found := false
	for line := range strings.Lines(p.agentAll) {
		line = strings.Join(strings.Fields(line), " ")
		switch {
		case !strings.Contains(line, mine):
		case health.MatchString(line):
			found = true
		default:
			t.Errorf("a socket of the agent that waits for somebody: %s", line)
		}
	}
	if !found {
		t.Errorf("ss shows no health endpoint of the agent:\n%s", p.agentAll)
	}
	connected := lab.SelectSockets(p.agentSockets, func(s *lab.Socket) bool { return s.State != lab.Listening })
	if len(connected) != 1 || len(p.tunnels) != 1 || connected[0] != p.tunnels[0] {
		t.Errorf("connections of the agent on its node: %v, want the tunnel only", connected)
	}
}

func (p *performance) tables(t *testing.T) {
	for _, pod := range p.both() {
		// The echo has ended, and may still be in TIME-WAIT.
		open := lab.SelectSockets(p.podSockets[pod], func(s *lab.Socket) bool { return s.State == lab.Established })
		if err := tableIsLocal(open, greetPort, sixPort); err != nil {
			t.Errorf("%s: %v", pod.name, err)
		}
	}
}

func (p *performance) nodeLoIsQuiet(t *testing.T) {
	if err := onlyHealth(p.evidence[nodeLo]); err != nil {
		t.Error(err)
	}
}

// onlyHealth claims that a node's loopback device carried nothing but requests
// to the health endpoint, which are the test's own.
func onlyHealth(packets []lab.Packet) error {
	health := netip.MustParseAddrPort(agentHealth)
	return none(packets, func(p *lab.Packet) bool { return p.Src != health && p.Dst != health })
}
