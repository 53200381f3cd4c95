package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
)

// names is a resolver, and an Identity that fails every dial and notes where it
// would have gone.
type names struct {
	resolve func(ctx context.Context, n int) ([]netip.Addr, error) // the nth lookup, from 0 on
	err     error                                                  // of every dial; nil: it hangs

	mu      sync.Mutex
	lookups int
	dials   map[string][]time.Time // by address
	relays  map[string]bool        // as the Identity heard them
}

func (n *names) Resolve(ctx context.Context, _ string) ([]netip.Addr, error) {
	n.mu.Lock()
	nth := n.lookups
	n.lookups++
	n.mu.Unlock()
	if end, limited := ctx.Deadline(); !limited || time.Until(end) > lookTimeout {
		return nil, errors.New("a lookup without a deadline")
	}
	return n.resolve(ctx, nth)
}

func (n *names) For(ctx context.Context, relay string, dial func(Credential) *connect.Dialer) (Credential, error) {
	n.mu.Lock()
	if n.dials == nil {
		n.dials, n.relays = make(map[string][]time.Time), make(map[string]bool)
	}
	addr := dial(Credential{}).Addr
	n.dials[addr] = append(n.dials[addr], time.Now())
	n.relays[relay] = true
	n.mu.Unlock()
	if n.err == nil {
		<-ctx.Done()
		return Credential{}, ctx.Err()
	}
	return Credential{}, n.err
}

// addrs returns what was dialled after since, sorted.
func (n *names) addrs(since time.Time) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for addr, times := range n.dials {
		if !times[len(times)-1].Before(since) {
			out = append(out, addr)
		}
	}
	slices.Sort(out)
	return out
}

// always answers the same.
func always(ips ...netip.Addr) func(context.Context, int) ([]netip.Addr, error) {
	return func(context.Context, int) ([]netip.Addr, error) { return ips, nil }
}

// ips makes n addresses.
func ips(n int) []netip.Addr {
	out := make([]netip.Addr, n)
	for i := range out {
		out[i] = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
	}
	return out
}

var (
	ipA, ipB, ipC = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::3")
	atA, atB, atC = "10.0.0.1:7443", "10.0.0.2:7443", "[fd00::3]:7443"
)

// run follows relays for so long, in the bubble of a test.
func (n *names) run(t *testing.T, cfg Config, life time.Duration, relays ...string) (*Agent, *journal) {
	t.Helper()
	log := &journal{}
	cfg.Node, cfg.Pods, cfg.Log = "n", local(nil), log.logger()
	cfg.Identity, cfg.Resolve, cfg.Relays = n, n.Resolve, relays
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), life)
	defer cancel()
	began := time.Now()
	if err := a.Run(ctx); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d != life {
		t.Errorf("ended after %v, want %v", d, life)
	}
	if n := a.keepers.Load(); n != 0 {
		t.Errorf("%d keepers are left", n)
	}
	if spare := a.spare.Load(); spare != int64(maxKeepers-len(relays)) {
		t.Errorf("%d keepers to spare at the end", spare)
	}
	return a, log
}

// TestFollow dials every address of a name, and follows it.
func TestFollow(t *testing.T) {
	const name = "relay.test:7443"
	down := errors.New("no answer")
	mapped := netip.MustParseAddr("::ffff:10.0.0.1")
	for _, tt := range []struct {
		name    string
		resolve func(ctx context.Context, n int) ([]netip.Addr, error)
		want    []string // dialled in the last minute
	}{
		{"all addresses", always(ipA, ipB, ipC), []string{atA, atB, atC}},
		{"a change", func(_ context.Context, n int) ([]netip.Addr, error) {
			return [][]netip.Addr{{ipA, ipB}, {ipB, ipC}}[min(n, 1)], nil
		}, []string{atB, atC}},
		{"back again", func(_ context.Context, n int) ([]netip.Addr, error) {
			return [][]netip.Addr{{ipA}, {ipB}, {ipA}}[min(n, 2)], nil
		}, []string{atA}},
		{"fails later", func(_ context.Context, n int) ([]netip.Addr, error) {
			if n > 0 {
				return nil, down
			}
			return []netip.Addr{ipA, ipB}, nil
		}, []string{atA, atB}},
		{"fails at first", func(_ context.Context, n int) ([]netip.Addr, error) {
			if n < 10 {
				return nil, down
			}
			return []netip.Addr{ipA, ipB}, nil
		}, []string{atA, atB}},
		{"hangs later", func(ctx context.Context, n int) ([]netip.Addr, error) {
			if n > 0 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return []netip.Addr{ipA, ipB}, nil
		}, []string{atA, atB}},
		{"nothing later", func(_ context.Context, n int) ([]netip.Addr, error) {
			return [][]netip.Addr{{ipA}, nil, {netip.IPv4Unspecified(), {}, netip.MustParseAddr("224.0.0.1")}}[n%3], nil
		}, []string{atA}},
		{"twice", always(mapped, ipA, mapped, ipA), []string{atA}},
		{"never", func(context.Context, int) ([]netip.Addr, error) { return nil, down }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &names{resolve: tt.resolve, err: errors.New("away")}
				last := time.Now().Add(9 * time.Minute)
				_, log := n.run(t, Config{}, 10*time.Minute, name)
				if got := n.addrs(last); !slices.Equal(got, tt.want) {
					t.Errorf("dialled at the end: %v, want %v", got, tt.want)
				}
				if len(n.relays) > 0 && !maps.Equal(n.relays, map[string]bool{name: true}) {
					t.Errorf("the identity was asked for %v", n.relays)
				}
				for _, line := range log.lines("no tunnel") {
					if addr := fmt.Sprint(line["addr"]); line["relay"] != name || n.dials[addr] == nil {
						t.Fatalf("log: %v", line)
					}
				}
				for _, addr := range tt.want { // one keeper, however often it is in the answer
					if tries := len(n.dials[addr]); tries > 260 {
						t.Errorf("%d dials of %s", tries, addr)
					}
				}
				if n.lookups > 300 {
					t.Errorf("%d lookups in 10 minutes", n.lookups)
				}
			})
		})
	}
}

// TestFollowQuietly has nothing to complain of: one lookup each five seconds, and
// addresses in another order are the same.
func TestFollowQuietly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{resolve: func(_ context.Context, n int) ([]netip.Addr, error) {
			return [][]netip.Addr{{ipA, ipB, ipC}, {ipC, ipB, ipA}}[n%2], nil
		}}
		n.run(t, Config{DialTimeout: time.Hour}, 10*time.Minute, "relay.test:7443")
		if n.lookups < 100 || n.lookups > 151 {
			t.Errorf("%d lookups in 10 minutes", n.lookups)
		}
		for addr, dials := range n.dials {
			if len(dials) != 1 {
				t.Errorf("%s: %d dials", addr, len(dials))
			}
		}
	})
}

// TestFollowLookupFails says so once a minute, though no two errors are the same.
func TestFollowLookupFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{resolve: func(_ context.Context, n int) ([]netip.Addr, error) {
			return nil, fmt.Errorf("read udp 10.0.0.9:%d->10.96.0.10:53: timeout", 40000+n)
		}}
		a, log := n.run(t, Config{}, 10*time.Minute, "relay.test:7443")
		warned := 0
		for _, line := range log.lines("addresses of the relay not found") {
			if line["level"] == "WARN" {
				warned++
			}
			if line["relay"] != "relay.test:7443" {
				t.Errorf("log: %v", line)
			}
		}
		if warned < 9 || warned > 11 {
			t.Errorf("%d warnings in 10 minutes", warned)
		}
		var metrics strings.Builder
		a.WriteMetrics(&metrics)
		if want := fmt.Sprintf("culvert_agent_relay_lookup_failures_total %d\n", n.lookups); !strings.Contains(metrics.String(), want) {
			t.Errorf("metrics lack %s", want)
		}
	})
}

// TestFollowFlapping changes the answer with each lookup, while no dial succeeds.
func TestFollowFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{err: errors.New("away"), resolve: func(_ context.Context, n int) ([]netip.Addr, error) {
			return ips(1000)[n%7*100 : n%7*100+100], nil
		}}
		n.run(t, Config{}, time.Minute, "relay.test:7443")
		total := 0
		for _, dials := range n.dials {
			total += len(dials)
		}
		// Half a second at least between two lookups, and few tries in between.
		if n.lookups > 121 || total > n.lookups*maxAddresses*5 {
			t.Errorf("%d lookups, %d dials in a minute", n.lookups, total)
		}
	})
}

// TestFollowLimits has more addresses than there may be tunnels.
func TestFollowLimits(t *testing.T) {
	for _, tt := range []struct {
		relays []string
		want   int
		says   string
	}{
		{[]string{"one.test:1"}, 64, "more than 64"},
		{[]string{"one.test:1", "10.9.9.9:1"}, 65, "more than 64"},
		{[]string{"one.test:1", "two.test:1", "three.test:1", "10.9.9.9:1"}, 128, "more than 128"},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &names{resolve: always(ips(1000)...)}
			_, log := n.run(t, Config{DialTimeout: time.Hour}, time.Minute, tt.relays...)
			if len(n.relays) != len(tt.relays) {
				t.Errorf("%v: tunnels to %v only", tt.relays, n.relays)
			}
			if !strings.Contains(fmt.Sprint(log.lines("not every relay gets a tunnel")), tt.says) {
				t.Errorf("%v: log:\n%s", tt.relays, log)
			}
			total := 0
			for _, dials := range n.dials {
				total += len(dials)
			}
			if total != tt.want {
				t.Errorf("%v: %d dials, want %d", tt.relays, total, tt.want)
			}
		})
	}
	_, err := New(Config{Node: "n", Relays: make([]string, maxKeepers+1)})
	if err == nil || !strings.Contains(err.Error(), "128 is the most") {
		t.Errorf("too many relays: %v", err)
	}
}

// TestNotResolved leaves addresses alone, and names that a proxy resolves.
func TestNotResolved(t *testing.T) {
	refuse := func(*url.URL) (*url.URL, error) { return nil, errors.New("broken setting") }
	through := func(u *url.URL) (*url.URL, error) {
		if u.String() != "https://relay.test:7443" {
			return nil, fmt.Errorf("asked for %s", u)
		}
		return url.Parse("http://proxy.test:3128")
	}
	for _, tt := range []struct {
		relay string
		proxy func(*url.URL) (*url.URL, error)
	}{
		{"10.0.0.1:7443", nil}, {"[fd00::3]:7443", nil}, {"[fe80::1%eth0]:7443", nil},
		{"relay.test:7443", through}, {"relay.test:7443", refuse}, {"no-port", nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &names{err: errors.New("away"), resolve: always(ipA)}
			n.run(t, Config{Proxy: tt.proxy}, time.Minute, tt.relay)
			if got := n.addrs(time.Time{}); n.lookups > 0 || !slices.Equal(got, []string{tt.relay}) {
				t.Errorf("%s: %d lookups, dialled %v", tt.relay, n.lookups, got)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // a proxy for others
		n := &names{err: errors.New("away"), resolve: always(ipA)}
		n.run(t, Config{Proxy: func(*url.URL) (*url.URL, error) { return nil, nil }}, time.Minute, "relay.test:7443")
		if got := n.addrs(time.Time{}); !slices.Equal(got, []string{atA}) {
			t.Errorf("dialled %v", got)
		}
	})
}
