//go:build linux

package replicas

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
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
// rolling update does. No new connection is lost; a long one is cut at the end of
// the drain and counted.
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

	long := s.hold(t, one)
	s.serve(stays)
	cut := s.end(leaves)
	s.serve(leaves) // whichever it was
	other := s.end(stays)
	if _, err := long.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the long stream ended with %v, want %v", err, syscall.ECONNRESET)
	}
	both := strings.Join([]string{textOf(cut), textOf(other)}, "")
	if n := strings.Count(both, `msg="streams are cut" streams=1`); n != 1 {
		t.Errorf("%d relays say that they have cut a stream, want 1:\n%s", n, both)
	}
	if !strings.Contains(both, "code=going-away") {
		t.Error("the stream's own line does not say why it ended")
	}
}
