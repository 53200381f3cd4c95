package relay

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// answers is where a relay looks for its peers.
type answers struct {
	mu   sync.Mutex
	now  []netip.AddrPort
	err  error
	look int
}

func (a *answers) Look(context.Context) ([]netip.AddrPort, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.look++
	return a.now, a.err
}

func (a *answers) set(err error, addrs ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now, a.err = nil, err
	for _, s := range addrs {
		a.now = append(a.now, netip.MustParseAddrPort(s))
	}
}

// TestPeerGroup follows the peers: what cannot be is left out, order does not
// matter, and no answer changes nothing.
func TestPeerGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &answers{}
		a.set(nil, "10.0.0.2:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1", "0.0.0.0:1", "224.0.0.1:1", "10.0.0.3:0", "[fd00::1]:1")
		g := newPeerGroup(Peers{Group: "g", Look: a.Look})
		if g.count() != 0 {
			t.Error("knows peers before it has looked")
		}
		ctx, stop := context.WithCancel(t.Context())
		var complaints atomic.Int64
		done := make(chan struct{})
		go func() { defer close(done); g.watch(ctx, func(error) { complaints.Add(1) }) }()
		synctest.Wait()
		addrs, changed := g.now()
		if len(addrs) != 3 || g.count() != 2 {
			t.Errorf("%d relays at %v", g.count(), addrs)
		}
		a.set(nil, "[fd00::1]:1", "10.0.0.1:1", "10.0.0.2:1")
		time.Sleep(10 * time.Second)
		a.set(errors.New("DNS is away"))
		time.Sleep(10 * time.Second)
		a.set(nil)
		time.Sleep(10 * time.Second)
		select {
		case <-changed:
			t.Error("changed")
		default:
		}
		if n := complaints.Load(); n < 5 || n > 8 {
			t.Errorf("%d complaints in 20 s", n)
		}
		a.set(nil, "10.0.0.9:1")
		<-changed
		if m := g.message(a.now, 2000); m.GetCount() != 1 || m.GetAddrs()[0] != "10.0.0.9:1" || m.GetPace().AsDuration() != 10*time.Second || m.GetGroup() != "g" {
			t.Errorf("told: %v", m)
		}
		stop()
		<-done
		newPeerGroup(Peers{}).watch(t.Context(), nil) // has nothing to do
	})
}

// TestAgentsHearOfPeers tells them at once, and when it changes, and says goodbye
// after that.
func TestAgentsHearOfPeers(t *testing.T) {
	a := &answers{}
	a.set(nil, "10.0.0.1:7443")
	h := newHouse(t, Config{Peers: Peers{Look: a.Look, Every: time.Millisecond}})
	eventually(t, "the relay knows itself", func() bool { return h.s.peers.count() == 1 })
	_, call := h.agentOf("node-a")
	hear := func(want int) {
		t.Helper()
		m, err := call.Recv()
		if err != nil || len(m.GetPeers().GetAddrs()) != want {
			t.Errorf("agent hears %v, %v, want %d addresses", m, err, want)
		}
	}
	hear(1)
	a.set(nil, "10.0.0.1:7443", "10.0.0.2:7443")
	hear(2)
	about, err := controlv1.NewViewClient(h.clientOf().calls()).About(within(t), &controlv1.AboutRequest{})
	if err != nil || about.GetRelays() != 2 || !about.GetByReport() {
		t.Errorf("about: %v, %v", about, err)
	}
	var text strings.Builder
	h.s.WriteMetrics(&text)
	if !strings.Contains(text.String(), "culvert_relay_peers 2\n") {
		t.Error("the metrics do not count the peers")
	}
	h.stop()
	heard(t, call)
}

// TestClientsHearThatTheRelayGoes over the watch that they keep.
func TestClientsHearThatTheRelayGoes(t *testing.T) {
	h := newHouse(t, Config{DrainTimeout: time.Hour})
	_, _ = h.agentOf("node-a")
	client := h.clientOf()
	watch, err := controlv1.NewViewClient(client.calls()).Watch(within(t), &controlv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := watch.Recv(); err != nil || m.GetAbout().GetRelayId() != h.s.ID() {
		t.Errorf("hears %v, %v", m, err)
	}
	h.stop()
	if m, err := watch.Recv(); err != nil || m.GetGoingAway().GetGrace().AsDuration() != time.Hour || m.GetGoingAway().GetSpread() == nil {
		t.Errorf("hears %v, %v", m, err)
	}
	<-h.done // who only watches holds nobody up
	if got := h.log.all(t, "all streams have ended"); len(got) != 1 {
		t.Errorf("logged %v", got)
	}
}

// TestOneTunnelOfAnInstance is enough, if the agent says that it lives.
func TestOneTunnelOfAnInstance(t *testing.T) {
	r := newRig(t, Config{})
	r.control()
	come := func(reg *controlv1.Register) uint64 {
		t.Helper()
		reg.Node = "node-a"
		l := r.connect(Identity{Role: RoleNode, Name: "node-a"}, tunnel.Config{})
		_, answer, err := l.attend(reg)
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetSameAs()
	}
	for _, tt := range []struct {
		name string
		reg  *controlv1.Register
		want uint64
		n    int // tunnels after it
	}{
		{"the first", &controlv1.Register{Instance: "i", Tunnel: 7, Others: []uint64{8}}, 0, 1},
		{"a second", &controlv1.Register{Instance: "i", Tunnel: 8, Others: []uint64{6, 7}}, 7, 1},
		{"a second to an agent that has lost the first", &controlv1.Register{Instance: "i", Tunnel: 9, Others: []uint64{6}}, 0, 2},
		{"a second of an old agent", &controlv1.Register{Instance: "i"}, 0, 3},
		{"of another instance", &controlv1.Register{Instance: "j", Tunnel: 10, Others: []uint64{7, 9}}, 0, 4},
	} {
		if got := come(tt.reg); got != tt.want {
			t.Errorf("%s: same as %d, want %d", tt.name, got, tt.want)
		}
		if ts, _ := r.s.nodes.tunnels("node-a"); len(ts) != tt.n {
			t.Errorf("%s: %d tunnels, want %d", tt.name, len(ts), tt.n)
		}
	}
	ts, _ := r.s.nodes.tunnels("node-a")
	for _, on := range ts {
		r.s.nodes.leaving(on)
	}
	if got := come(&controlv1.Register{Instance: "i", Tunnel: 11, Others: []uint64{7, 9}}); got != 0 {
		t.Errorf("same as %d, on which goodbye was said", got)
	}
	l := r.connect(Identity{Role: RoleNode, Name: "node-a"}, tunnel.Config{})
	if _, _, err := l.attend(&controlv1.Register{Node: "node-a", Instance: "i", Others: make([]uint64, maxOthers+1)}); err == nil {
		t.Error("names any number of tunnels")
	}
}
