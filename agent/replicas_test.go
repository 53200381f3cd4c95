package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// replicas is a name with relays behind it.
type replicas struct {
	ca   *authority
	port string

	mu  sync.Mutex
	now []netip.Addr
	n   int // lookups
}

func (r *replicas) Resolve(context.Context, string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	return slices.Clone(r.now), nil
}

func (r *replicas) lookups() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// answer sets what the name is resolved to.
func (r *replicas) answer(relays ...*relay) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = nil
	for _, relay := range relays {
		r.now = append(r.now, netip.MustParseAddrPort(relay.addr).Addr())
	}
}

// relay starts one at an address; all have the same port.
func (r *replicas) relay(t *testing.T, ip string) *relay {
	t.Helper()
	if r.ca == nil {
		r.ca, r.port = newAuthority(t), "0"
	}
	started := startRelay(t, &relay{ca: r.ca, addr: net.JoinHostPort(ip, r.port)})
	_, r.port, _ = net.SplitHostPort(started.addr)
	return started
}

// TestReplicas keeps a tunnel to every replica of a relay. One is replaced, one
// leaves the name while a stream runs on its tunnel, and comes back.
func TestReplicas(t *testing.T) {
	name := &replicas{}
	one, two := name.relay(t, "127.0.0.1"), name.relay(t, "127.0.0.2")
	name.answer(one, two)
	pod := reachtest.Listen(t)
	relayName := net.JoinHostPort("relay.test", name.port)
	a := start(t, Config{Relays: []string{relayName}, Identity: joiner(t, name.ca), Resolve: name.Resolve, Pods: local(reachtest.DialTo(pod.Addr().String()), pod1)})
	first, second := one.tunnel(t, 1), two.tunnel(t, 1)
	if first.reg.GetInstance() != second.reg.GetInstance() || !first.cert.Equal(second.cert) {
		t.Error("another instance or another certificate at the other address")
	}
	_, joinedOne, _ := one.counts()
	_, joinedTwo, _ := two.counts()
	if joinedOne+joinedTwo != 1 {
		t.Errorf("joined %d times at one replica, %d times at the other", joinedOne, joinedTwo)
	}
	var addrs []string
	for _, line := range a.log.wait(t, "tunnel up", 2) {
		if addrs = append(addrs, fmt.Sprint(line["addr"])); line["relay"] != relayName {
			t.Errorf("log: %v", line)
		}
	}
	if slices.Sort(addrs); !slices.Equal(addrs, []string{one.addr, two.addr}) {
		t.Errorf("the log has tunnels to %v", addrs)
	}
	client := first.mustOpen(t, pod1.UID)
	podEnd := reachtest.Accept(t, pod)

	// Both leave the name; the loss of one is why that is noticed at once.
	three := name.relay(t, "127.0.0.3")
	name.answer(three)
	second.stop()
	third := three.tunnel(t, 1)
	two.tunnel(t, 2).stop() // it was back before the answer came
	eventually(t, "the address is given up with its tunnel", func() bool { return a.keepers.Load() == 2 })
	if _, err := client.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(podEnd, make([]byte, 1)); err != nil {
		t.Errorf("the stream on the tunnel to the address that was left: %v", err)
	}
	ever, _, _ := two.counts()
	first.stop()
	eventually(t, "the address is given up with its tunnel", func() bool { return a.keepers.Load() == 1 })

	// One comes back.
	name.answer(three, one)
	before := name.lookups()
	third.leave <- &controlv1.GoingAway{Reason: "rolled out"}
	eventually(t, "the name is looked up at once", func() bool { return name.lookups() > before })
	one.tunnel(t, 2)
	three.tunnel(t, 2)
	if n, _, _ := two.counts(); n != ever {
		t.Errorf("%d sessions with the relay that is not behind the name any more, %d before", n, ever)
	}
	eventually(t, "the agent is ready", a.Ready)
}

// TestAbsoluteName ends the name with a dot, which saves a cluster's DNS the
// search list. The certificate is for the name without.
func TestAbsoluteName(t *testing.T) {
	name := &replicas{}
	one := name.relay(t, "127.0.0.1")
	name.answer(one)
	start(t, Config{Relays: []string{net.JoinHostPort("relay.test.", name.port)}, Identity: joiner(t, name.ca), Resolve: name.Resolve})
	one.tunnel(t, 1)
}

// TestRefusedAtEveryAddress has several tunnels refused for one certificate: that
// is a reason for one new one.
func TestRefusedAtEveryAddress(t *testing.T) {
	r := startRelay(t, &relay{})
	j := joiner(t, r.ca)
	var shown [3]Credential
	for i := range shown {
		var err error
		if shown[i], err = askFor(t, j, r); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []int{2, 2, 2, 3} {
		if i < len(shown) {
			shown[i].Refused()
		} else {
			shown[0].Refused() // the new one
		}
		next, err := askFor(t, j, r)
		if err != nil {
			t.Fatal(err)
		}
		if _, joined, _ := r.counts(); joined != want {
			t.Errorf("refusal %d: joined %d times, want %d", i+1, joined, want)
		}
		if i == len(shown)-1 {
			shown[0] = next
		}
	}
}

// TestHalf leaves time for the next address.
func TestHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		ctx, stop := half(whole)
		defer stop()
		began := time.Now()
		<-ctx.Done()
		if d := time.Since(began); d != 5*time.Second {
			t.Errorf("half of 10s is %v", d)
		}
		free, stop := half(t.Context())
		if _, limited := free.Deadline(); limited {
			t.Error("half of for ever has an end")
		}
		stop()
		if free.Err() == nil {
			t.Error("not stopped")
		}
	})
}
