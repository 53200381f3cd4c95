//go:build linux

package replicas

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/test/lab"
)

// behindOne are the flags of relays that agents reach through one address only.
const behindOne = "--peers-from-dns=" + relaysName + ":" + nowhere

// TestBalancer has one address for all relays, while they are two, four and one,
// under load.
func TestBalancer(t *testing.T) {
	for name, how := range map[string]pick{"round robin": roundRobin, "random": atRandom} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, how, behindOne)
			s.relay("r1")
			s.relay("r2")
			s.serve("r1", "r2")
			s.agents("--relay", s.addr("lb"))
			s.tunnels(2, 0)
			_, one := s.forward("node1", s.addr("lb"))
			_, two := s.forward("node2", s.addr("lb"))
			stop := s.load(one, two)
			s.grow()
			s.shrink()
			stop()
		})
	}
}

// grow makes four of two.
func (s *site) grow() {
	s.t.Helper()
	s.relay("r3")
	s.relay("r4")
	s.serve("r1", "r2", "r3", "r4")
	s.tunnels(4, 0)
}

// shrink makes one of four.
func (s *site) shrink() {
	s.t.Helper()
	for i, leaves := range []string{"r1", "r2", "r3"} {
		s.serve([]string{"r1", "r2", "r3", "r4"}[i+1:]...)
		s.end(leaves)
	}
	s.tunnels(1, 0)
}

// TestName has a name with the address of each relay, and the same changes.
func TestName(t *testing.T) {
	s := newSite(t, roundRobin, "--peers-from-dns", relaysName)
	s.relay("r1")
	s.relay("r2")
	s.serve("r1", "r2")
	s.agents("--relay", relaysName+":7443")
	s.tunnels(2, 0)
	_, addr := s.forward("node1", relaysName+":7443")
	stop := s.load(addr)
	s.grow()
	s.shrink()
	stop()
}

// TestSticky has a balancer that leads each node to the same relay for ever. The
// agent says so, goes on to try, and gets there once it is let.
func TestSticky(t *testing.T) {
	s := newSite(t, sticky, behindOne)
	for _, r := range []string{"r1", "r2", "r3"} {
		s.relay(r)
	}
	s.serve("r1", "r2", "r3")
	s.agents("--relay", s.addr("lb"))
	s.tunnels(1, 2)
	for _, p := range s.agentsUp {
		line := s.said(p, "not every relay gets a tunnel")
		if !strings.Contains(line, "session affinity") {
			t.Errorf("it does not say what to do: %s", line)
		}
	}
	s.lb.become(roundRobin)
	s.tunnels(3, 0)
}

// TestList has the agents given two relays of three; the third is told. One of the
// two is there by the balancer too, and still has one tunnel.
func TestList(t *testing.T) {
	s := newSite(t, roundRobin)
	peers := "--peers=" + strings.Join([]string{s.addr("r1"), s.addr("r2"), s.addr("r3")}, ",")
	for _, r := range []string{"r1", "r2", "r3"} {
		s.relay(r, peers)
	}
	s.serve("r1")
	s.agents("--relay", s.addr("r1"), "--relay", s.addr("r2"), "--relay", s.addr("lb"))
	s.tunnels(3, 0)
	for _, p := range s.agentsUp {
		s.said(p, "one is enough")
	}
	_, addr := s.forward("node1", s.addr("r3"))
	if err := s.echo(t.Context(), addr, "through the one that was told"); err != nil {
		t.Error(err)
	}
}

// TestAnotherReplica has the agents at one relay of two only, and a client at the
// other one.
func TestAnotherReplica(t *testing.T) {
	s := newSite(t, roundRobin)
	peers := "--peers=" + s.net.Host("r1").Addr().String() + ":" + nowhere + "," + s.net.Host("r2").Addr().String() + ":" + nowhere
	s.relay("r1", peers)
	s.relay("r2", peers)
	s.agents("--relay", s.addr("r1"))
	s.tunnels(1, 1)
	s.serve("r1", "r2")
	for range 2 { // one of them begins at r2
		_, addr := s.forward("node1", s.addr("lb"))
		stop := s.load(addr)
		for range 5 {
			if err := s.echo(t.Context(), addr, "hello"); err != nil {
				t.Error(err)
			}
		}
		stop()
	}
}

// TestReplacedUnderLoad replaces one relay after the other, several times, as a
// rolling update does. No new connection is lost.
func TestReplacedUnderLoad(t *testing.T) {
	s := newSite(t, roundRobin, "--peers-from-dns="+relaysName, "--drain-timeout=2s")
	s.relay("r1")
	s.relay("r2")
	s.serve("r1", "r2")
	s.agents("--relay", relaysName+":7443")
	s.tunnels(2, 0)
	_, one := s.forward("node1", s.addr("lb"))
	_, two := s.forward("node2", relaysName+":7443")
	_, list := s.forward("node1", s.addr("r1"), s.addr("r2"), s.addr("r3"))
	stop := s.load(one, two, list)
	leaves, stays := "r1", "r2"
	for _, comes := range []string{"r3", "r1", "r2", "r3", "r1", "r2"} {
		s.relay(comes)
		s.serve(leaves, stays, comes)
		s.tunnels(3, 0)
		s.serve(stays, comes)
		p := s.end(leaves)
		s.said(p, "relay is going away")
		s.said(p, "all streams have ended")
		s.tunnels(2, 0)
		leaves, stays = stays, comes
	}
	stop()
}

// TestLongStreams replaces both relays, as a rolling update does, under connections of
// which some end within the drain and some go on for longer. The first end well; the
// others are reset at the end of the drain, and the relays say how many, and which.
func TestLongStreams(t *testing.T) {
	s := newSite(t, roundRobin, "--peers-from-dns="+relaysName, "--drain-timeout=10s")
	s.relay("r1")
	s.relay("r2")
	s.serve("r1", "r2")
	s.agents("--relay", relaysName+":7443")
	s.tunnels(2, 0)
	var addrs []string
	for range 2 { // by chance at one relay or at both
		for _, node := range []string{"node1", "node2"} {
			_, addr := s.forward(node, s.addr("lb"))
			addrs = append(addrs, addr)
		}
	}
	long := s.several(5, addrs...)
	ended, said := 0, 0
	for _, of := range [][]string{{"r1", "r2", "r3"}, {"r2", "r3", "r4"}} {
		leaves, stays, comes := of[0], of[1], of[2]
		short := s.several(2, addrs...)
		s.relay(comes)
		s.tunnels(2, 0) // it is not in the name
		s.serve(stays, comes)
		s.ask(leaves)
		s.said(s.relays[leaves], "relay is going away")
		for _, c := range short {
			s.endsWell(c)
			ended++
		}
		said += cutBy(t, s.gone(leaves))
		s.tunnels(2, 0)
	}
	for _, c := range long {
		s.wasCut(c)
	}
	t.Logf("a rolling update of two relays cut %d connections that were longer than the drain; %d ended within it", said, ended)
	if said != len(long) {
		t.Errorf("the relays say that they have cut %d connections, and %d were", said, len(long))
	}
}

var cutLine = regexp.MustCompile(`msg="streams are cut" streams=(\d+)`)

// cutBy returns how many streams a relay says it has cut. There is a line for each.
func cutBy(t *testing.T, p *lab.Process) int {
	t.Helper()
	text := p.Text(lab.Stderr)
	n := 0
	if m := cutLine.FindStringSubmatch(text); m != nil {
		n, _ = strconv.Atoi(m[1]) // digits
	}
	if lines := strings.Count(text, "code=going-away"); lines != n {
		t.Errorf("a relay says that it has cut %d streams, and has %d lines of such", n, lines)
	}
	return n
}
