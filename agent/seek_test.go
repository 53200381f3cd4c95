package agent

import (
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// balancer is one address with relays behind it.
type balancer struct {
	addr string
	next func(n int64) *relay
	n    atomic.Int64 // connections
}

// balance starts one that ends with the test.
func balance(t *testing.T, next func(n int64) *relay) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{addr: l.Addr().String(), next: next}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { b.carry(from) })
		}
	})
	t.Cleanup(func() { l.Close(); conns.Wait() })
	return b
}

func (b *balancer) carry(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", b.next(b.n.Add(1)-1).addr)
	if err != nil {
		return
	}
	defer to.Close()
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(from, to); from.Close() })
	_, _ = io.Copy(to, from)
	to.Close()
	back.Wait()
}

func certified(t *testing.T, ca *authority) *Certificate {
	t.Helper()
	file, cert, key := ca.files(t, "node-1")
	return &Certificate{Trust: Trust{CAFile: file}, CertFile: cert, KeyFile: key}
}

// group starts relays that tell that there are as many.
func group(t *testing.T, n int) []*relay {
	t.Helper()
	ca := newAuthority(t)
	relays := make([]*relay, n)
	for i := range relays {
		relays[i] = startRelay(t, &relay{ca: ca, id: "relay-" + strconv.Itoa(i), peers: &controlv1.Peers{Group: "g", Count: uint32(n)}})
	}
	return relays
}

// TestOneAddressForAll finds every relay behind one address, keeps one tunnel to
// each, and gets back one that was lost.
func TestOneAddressForAll(t *testing.T) {
	relays := group(t, 3)
	var all atomic.Bool
	b := balance(t, func(n int64) *relay {
		if all.Load() {
			return relays[n%3]
		}
		return relays[n%2]
	})
	a := start(t, Config{Relays: []string{b.addr}, Identity: certified(t, relays[0].ca)})
	one := func(want ...int) func() bool {
		return func() bool {
			for i, r := range relays {
				if r.alive() != want[i] {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "a tunnel to each relay that answers", one(1, 1, 0))
	eventually(t, "one is missing", func() bool { return a.fleet.missing() == 1 })
	all.Store(true)
	eventually(t, "a tunnel to each relay", one(1, 1, 1))
	relays[1].tunnel(t, 1).stop()
	relays[1].tunnel(t, 2)
	eventually(t, "nothing is missing", func() bool { return a.fleet.missing() == 0 })
	settled := b.n.Load()
	time.Sleep(20 * time.Millisecond)
	if got := b.n.Load(); got != settled {
		t.Errorf("%d dials while nothing is missing", got-settled)
	}
}

// TestOneTunnelForOneRelay reaches a relay by two addresses: one tunnel is enough,
// and the other address takes its place when it is lost.
func TestOneTunnelForOneRelay(t *testing.T) {
	r := group(t, 1)[0]
	here := func(int64) *relay { return r }
	one, two := balance(t, here), balance(t, here)
	a := start(t, Config{Relays: []string{one.addr, two.addr}, Identity: certified(t, r.ca)})
	a.log.wait(t, "this address leads to a relay that has a tunnel already, and one is enough", 1)
	r.tunnel(t, 1).stop()
	r.tunnel(t, 2)
	a.log.wait(t, "this address leads to a relay that has a tunnel already, and one is enough", 2)
	if n := r.alive(); n != 1 {
		t.Errorf("%d tunnels", n)
	}
	eventually(t, "the agent is ready", a.Ready)
}

// TestToldAddresses joins relays that another one tells of, and leaves them.
func TestToldAddresses(t *testing.T) {
	relays := group(t, 3)
	for _, r := range relays {
		relays[0].peers.Addrs = append(relays[0].peers.Addrs, r.addr)
	}
	a := start(t, Config{}, relays[0])
	relays[1].tunnel(t, 1)
	relays[2].tunnel(t, 1)
	eventually(t, "nothing is missing", func() bool { return a.fleet.missing() == 0 && a.keepers.Load() == 3 })
	if n := relays[0].alive(); n != 1 {
		t.Errorf("%d tunnels to the one that was given", n)
	}
	relays[0].peers.Addrs = relays[0].peers.Addrs[:2]
	relays[0].tunnel(t, 1).stop() // the next one is told less
	relays[0].tunnel(t, 2)
	relays[2].tunnel(t, 1).stop()
	eventually(t, "the address is given up with its tunnel", func() bool { return a.keepers.Load() == 2 })
	if relays[1].alive() != 1 || relays[2].alive() != 0 {
		t.Errorf("%d and %d tunnels", relays[1].alive(), relays[2].alive())
	}
}

// TestSearchIsPatient never finds a relay: it tries a while, then ever more rarely,
// says so once, and starts anew when something has changed.
func TestSearchIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &journal{}
		s := search{log: log.logger()}
		tries := func(g gap, life time.Duration) (n int) {
			end := time.Now().Add(life)
			for {
				if !s.plan(&g) {
					t.Fatal("nothing to look for")
				}
				if s.due.After(end) {
					time.Sleep(time.Until(end))
					return n
				}
				time.Sleep(time.Until(s.due))
				s.tried(&g)
				n++
			}
		}
		g := gap{count: 3, reached: 1, held: "a"}
		if n := tries(g, 15*time.Second); n < 10 || n > 22 {
			t.Errorf("%d tries at first", n)
		}
		tries(g, 10*time.Minute)
		if n := tries(g, time.Hour); n < 30 || n > 61 {
			t.Errorf("%d tries in an hour", n)
		}
		if n := strings.Count(log.String(), "not every relay"); n != 1 {
			t.Errorf("%d lines:\n%s", n, log)
		}
		g.held, g.reached = "ab", 2
		if n := tries(g, 15*time.Second); n < 10 {
			t.Errorf("%d tries after a change", n)
		}
		g.held, g.pace = "abd", 30*time.Second
		if n := tries(g, 5*time.Minute); n < 8 || n > 22 {
			t.Errorf("%d tries when the relay asked for patience", n)
		}
		g.reached = 3
		if s.plan(&g) {
			t.Error("looks for what is there")
		}
	})
}
