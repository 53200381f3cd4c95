package agent

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// TestFleet counts what is missing, by group and not at an address that is one
// relay's own.
func TestFleet(t *testing.T) {
	f := newFleet()
	own := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:7443"), netip.MustParseAddrPort("10.0.0.2:7443")}
	tie := func(relay, addr, id, group string, count int, addrs ...netip.AddrPort) *tie {
		t := f.enter(relay, addr)
		f.registered(t, id)
		f.told(t, peers{group: group, count: count, addrs: addrs})
		return t
	}
	lb := "lb.test:443"
	one := tie(lb, lb, "r1", "g", 3)
	tie(lb, lb, "r2", "g", 2)
	tie("else.test:1", "else.test:1", "x1", "other", 2)
	silent := f.enter(lb, lb)
	for _, tt := range []struct {
		relay, addr string
		missing     int
	}{{lb, lb, 1}, {"else.test:1", "else.test:1", 1}, {"unknown:1", "unknown:1", 0}} {
		if g := f.gap(tt.relay, tt.addr); g.missing() != tt.missing {
			t.Errorf("%s: %d missing, want %d", tt.addr, g.missing(), tt.missing)
		}
	}
	if n := f.missing(); n != 2 {
		t.Errorf("%d missing in all, want 2", n)
	}
	if got := f.others(silent); !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("others: %v", got)
	}
	g := f.gap(lb, lb)
	f.leave(one)
	f.leave(one)
	<-one.gone
	<-g.changed
	if g = f.gap(lb, lb); g.missing() != 1 || f.find(1) != nil {
		t.Errorf("after a loss: %+v", g)
	}
	tie("10.0.0.1:7443", "10.0.0.1:7443", "r9", "direct", 2, own...)
	if g := f.gap("10.0.0.1:7443", "10.0.0.1:7443"); g.missing() != 0 {
		t.Errorf("a relay's own address: %+v", g)
	}
	undo := f.keep("10.0.0.1:7443")
	hints, told, _ := f.hints()
	if _, ok := hints["10.0.0.2:7443"]; !told || !ok || len(hints) != 1 {
		t.Errorf("hints: %v", hints)
	}
	undo()
	if hints, _, _ = f.hints(); len(hints) != 2 {
		t.Errorf("hints: %v", hints)
	}
}

// TestPeersFrom bounds what a relay says.
func TestPeersFrom(t *testing.T) {
	far := &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 1}
	near := &net.TCPAddr{IP: net.ParseIP("127.0.0.1"), Port: 1}
	many := make([]string, 1000)
	for i := range many {
		many[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1).String()
	}
	for _, tt := range []struct {
		name    string
		m       *controlv1.Peers
		at      net.Addr
		addrs   int
		count   int
		pace    time.Duration
		lenName int
	}{
		{"nothing", nil, far, 0, 0, 0, 0},
		{"good", &controlv1.Peers{Group: "g", Count: 2, Addrs: []string{"10.0.0.1:7443", "[fd00::1]:7443"}}, far, 2, 2, 0, 1},
		{"no addresses", &controlv1.Peers{Addrs: []string{"relay.test:1", "10.0.0.1", "", "10.0.0.1:0", "0.0.0.0:1", "224.0.0.1:1", "[::]:1"}}, far, 0, 0, 0, 0},
		{"this node's own", &controlv1.Peers{Addrs: []string{"127.0.0.1:10250", "[::1]:1", "169.254.169.254:80", "[fe80::1]:1", "[::ffff:127.0.0.1]:1"}}, far, 0, 0, 0, 0},
		{"from near", &controlv1.Peers{Addrs: []string{"127.0.0.2:7443", "169.254.169.254:80"}}, near, 1, 0, 0, 0},
		{"too much", &controlv1.Peers{Count: 1 << 31, Addrs: many, Group: string(make([]byte, 1000)), Pace: durationpb.New(time.Hour)}, far, maxTold, maxTold, maxPace, maxSaid},
		{"less than nothing", &controlv1.Peers{Pace: durationpb.New(-time.Hour)}, far, 0, 0, 0, 0},
	} {
		got := peersFrom(tt.m, tt.at)
		if len(got.addrs) != tt.addrs || got.count != tt.count || got.pace != tt.pace || len(got.group) != tt.lenName {
			t.Errorf("%s: %d addresses, %d relays, pace %v, name of %d bytes", tt.name, len(got.addrs), got.count, got.pace, len(got.group))
		}
	}
}
