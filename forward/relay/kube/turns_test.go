package kube

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func from(ctx context.Context, addr string) context.Context {
	return relay.WithSource(ctx, relay.ParseSource(addr))
}

// A flood from one address takes its own turns only.
func TestStrangersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(10, 20)
		var all sync.WaitGroup
		var flood atomic.Int32
		for range 2000 {
			all.Go(func() {
				if q.wait(from(t.Context(), "192.0.2.1:1000"), "crowd") == nil {
					flood.Add(1)
				}
			})
		}
		synctest.Wait()
		for i, addr := range []string{"192.0.2.2:1", "[2001:db8::1]:1", "[2001:db8:0:1::1]:1"} {
			all.Go(func() {
				began := time.Now()
				if err := q.wait(from(t.Context(), addr), "crowd"); err != nil || time.Since(began) > time.Second {
					t.Errorf("%d: %v after %v", i, err, time.Since(began))
				}
			})
		}
		all.Wait()
		if n := flood.Load(); n < 45 || n > 55 { // 20 at once, 10 a second for three, less three
			t.Errorf("%d of the flood came through", n)
		}
		if q.waiting != 0 || len(q.lines) != 0 || q.order.Len() != 0 {
			t.Errorf("%d wait in %d lines", q.waiting, len(q.lines))
		}
		time.Sleep(time.Minute)
		if err := q.wait(from(t.Context(), "192.0.2.1:1"), "crowd"); err != nil {
			t.Errorf("after the flood: %v", err)
		}
	})
}

// What waits is bounded, and the longest line gives way.
func TestTurnsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var all sync.WaitGroup
		for i := range 5 * maxTurns {
			all.Go(func() { _ = q.wait(from(ctx, fmt.Sprintf("192.0.2.%d:1", i%3)), "crowd") })
		}
		synctest.Wait()
		if q.waiting != maxTurns {
			t.Errorf("%d wait", q.waiting)
		}
		for i := range 50 {
			all.Go(func() { _ = q.wait(from(ctx, fmt.Sprintf("198.51.100.%d:1", i)), "crowd") })
		}
		synctest.Wait()
		if q.waiting != maxTurns || len(q.lines) != 53 {
			t.Errorf("%d wait in %d lines", q.waiting, len(q.lines))
		}
		cancel()
		all.Wait()
		if q.waiting != 0 || len(q.lines) != 0 {
			t.Errorf("%d wait in %d lines", q.waiting, len(q.lines))
		}
		// As many lines as there is room: one more has no longer one to take from.
		ctx, cancel2 := context.WithCancel(t.Context())
		defer cancel2()
		for i := range maxTurns {
			all.Go(func() { _ = q.wait(from(ctx, fmt.Sprintf("[2001:db8:%x::1]:1", i)), "crowd") })
		}
		synctest.Wait()
		if err := q.wait(from(ctx, "192.0.2.9:1"), "crowd"); stream.CodeOf(err) != stream.Overloaded {
			t.Errorf("%v", err)
		}
		cancel2()
		all.Wait()
	})
}

// An innocent caller beside a flood of made-up tokens, through both doors.
func TestStrangersOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		defer b.kube.Close()
		var all sync.WaitGroup
		for i := range 1000 {
			all.Go(func() {
				_, _ = b.kube.Known(from(t.Context(), "192.0.2.66:1"), relay.Identity{Role: relay.RoleUser, Proof: bearer(fmt.Sprint("wrong", i), nil)})
			})
		}
		synctest.Wait()
		if w := b.ask(t, http.MethodPost, webPath); w.Code != http.StatusOK { // from 192.0.2.1
			t.Errorf("%d: %s", w.Code, w.Body)
		}
		all.Wait()
	})
}

func TestSources(t *testing.T) {
	same := func(a, b string) bool { return relay.ParseSource(a) == relay.ParseSource(b) }
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		{"[::ffff:192.0.2.1]:1", "192.0.2.1:2", true},
		{"[2001:db8::1]:1", "[2001:db8::2]:1", true},
		{"[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false},
		{"[fe80::1%eth0]:1", "[fe80::1%eth1]:1", true},
		{"pipe", "", true},
	} {
		if same(tc.a, tc.b) != tc.want {
			t.Errorf("%s and %s", tc.a, tc.b)
		}
	}
}
