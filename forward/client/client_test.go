package client

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// script makes the outcome of each attempt, counted from 0, and notes when it
// was made.
type script struct {
	mu      sync.Mutex
	began   time.Time
	at      []time.Duration
	outcome func(n int, relay string) (session, error)
}

func (s *script) attach(_ context.Context, relay Relay) (session, error) {
	s.mu.Lock()
	n := len(s.at)
	s.at = append(s.at, time.Since(s.began))
	s.mu.Unlock()
	return s.outcome(n, relay.Addr)
}

func (s *script) times() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.at)
}

// start runs a Client over the script and returns it with the way to stop it,
// which returns what Run returned.
func start(t *testing.T, s *script, cfg Config) (*Client, func() error) {
	t.Helper()
	if len(cfg.Relays) == 0 {
		cfg.Relays = []Relay{{Addr: "relay:7443"}}
	}
	s.began = time.Now()
	c := New(cfg)
	c.attach = s.attach
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	return c, func() error { cancel(); return <-ended }
}

func refused(int, string) (session, error) { return nil, syscall.ECONNREFUSED }

func TestBackoffGrowsToItsCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{outcome: refused}
		_, stop := start(t, s, Config{})
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Errorf("Run = %v, want nil at the end of its context", err)
		}
		at := s.times()
		want := []time.Duration{0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000}
		for i, full := range want {
			full *= time.Millisecond
			gap := at[i+1] - at[i]
			if gap < full/2 || gap > full {
				t.Errorf("pause %d = %v, want %v to %v", i, gap, full/2, full)
			}
		}
	})
}

func TestLostSessionIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sessions []*fakeSession
		s := &script{outcome: func(int, string) (session, error) {
			sessions = append(sessions, newFakeSession())
			return sessions[len(sessions)-1], nil
		}}
		var events []EventKind
		c, stop := start(t, s, Config{Notify: func(e Event) { events = append(events, e.Kind) }})
		time.Sleep(time.Minute)
		synctest.Wait()
		sessions[0].cut(errCut)
		synctest.Wait()
		if _, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil); err != nil {
			t.Errorf("Open over the second session: %v", err)
		}
		stop()
		if at := s.times(); len(at) != 2 || at[1] != time.Minute {
			t.Errorf("attempts at %v, want 0 and 1m", at)
		}
		if want := []EventKind{Attached, Lost, Attached}; !slices.Equal(events, want) {
			t.Errorf("events %v, want %v", events, want)
		}
		if sessions[1].err == nil {
			t.Error("the session outlived Run")
		}
	})
}

func TestRelayThatDropsAtOnceIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{outcome: func(int, string) (session, error) {
			f := newFakeSession()
			f.cut(errCut)
			return f, nil
		}}
		_, stop := start(t, s, Config{})
		time.Sleep(time.Minute)
		stop()
		if n := len(s.times()); n > 40 {
			t.Errorf("%d attempts in a minute", n)
		}
	})
}

func TestWaitingConnectionTriggersAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		s := &script{outcome: func(int, string) (session, error) {
			if !up.Load() {
				return nil, syscall.ECONNREFUSED
			}
			return newFakeSession(), nil
		}}
		c, stop := start(t, s, Config{MaxBackoff: time.Hour})
		time.Sleep(30 * time.Minute) // deep in a long pause
		up.Store(true)
		began := time.Now()
		if _, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil); err != nil {
			t.Errorf("Open: %v", err)
		}
		if d := time.Since(began); d > kickFloor {
			t.Errorf("Open waited %v", d)
		}
		stop()
	})
}

func TestWaitingConnectionsDoNotFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{outcome: refused}
		c, stop := start(t, s, Config{})
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				began := time.Now()
				_, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil)
				if !errors.Is(err, ErrOffline) || !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("Open error = %v, want ErrOffline with the cause", err)
				}
				if d := time.Since(began); d != 10*time.Second {
					t.Errorf("Open gave up after %v, want 10s", d)
				}
			})
			time.Sleep(100 * time.Millisecond)
		}
		wg.Wait()
		stop()
		if n := len(s.times()); n > 100 {
			t.Errorf("%d attempts in 20 s", n)
		}
	})
}

func TestFinalRefusalEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{outcome: func(n int, _ string) (session, error) {
			if n < 3 {
				return nil, syscall.ECONNREFUSED
			}
			return nil, cureless(&stream.Error{Code: stream.Unauthenticated, Text: "token is not known"})
		}}
		c, _ := start(t, s, Config{})
		_, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil)
		if stream.CodeOf(err) != stream.Unauthenticated {
			t.Errorf("waiting Open: %v, want the refusal", err)
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		if n := len(s.times()); n != 4 {
			t.Errorf("%d attempts, want 4", n)
		}
	})
}

// A wire that damages bytes, or a certificate that has just run out, must not end
// what ran for days; at the start it is a mistake that somebody should be told of.
func TestBrokenHandshakeIsFinalOnlyAtTheStart(t *testing.T) {
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: error decoding message")}
	synctest.Test(t, func(t *testing.T) {
		first := newFakeSession()
		var odd atomic.Bool
		s := &script{outcome: func(n int, _ string) (session, error) {
			switch n {
			case 0:
				return first, nil
			case 4:
				return newFakeSession(), nil
			}
			return nil, cureless(alert)
		}}
		_, stop := start(t, s, Config{Notify: func(e Event) { odd.Store(odd.Load() || e.Odd) }})
		synctest.Wait()
		first.cut(errCut)
		time.Sleep(time.Minute)
		if n := len(s.times()); n != 5 || !odd.Load() {
			t.Errorf("%d attempts, want 5 and be told that it is odd: %v", n, odd.Load())
		}
		if err := stop(); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := &script{outcome: func(int, string) (session, error) { return nil, cureless(alert) }}
		_, stop := start(t, s, Config{})
		time.Sleep(time.Minute)
		if err := stop(); !errors.Is(err, alert) || len(s.times()) != 1 {
			t.Errorf("Run = %v after %d attempts", err, len(s.times()))
		}
	})
}

func TestRefusalOfOneRelayIsNotFinalWhileAnotherIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Bool
		s := &script{outcome: func(_ int, relay string) (session, error) {
			switch {
			case relay == "strict:1":
				return nil, cureless(&stream.Error{Code: stream.Unauthenticated})
			case !back.Load():
				return nil, syscall.ECONNREFUSED
			}
			return newFakeSession(), nil
		}}
		c, stop := start(t, s, Config{Relays: []Relay{{Addr: "strict:1"}, {Addr: "good:1"}}})
		time.Sleep(3 * time.Second)
		back.Store(true)
		if _, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil); err != nil {
			t.Errorf("Open: %v", err)
		}
		if err := stop(); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

func TestSilentRelayDoesNotHoldUpTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 8 { // the order is random
			c := New(Config{Relays: []Relay{{Addr: "silent:1"}, {Addr: "good:1"}}})
			c.attach = func(ctx context.Context, relay Relay) (session, error) {
				if relay.Addr == "silent:1" {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return newFakeSession(), nil
			}
			began := time.Now()
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); d > headStart {
				t.Errorf("connected after %v", d)
			}
			c.Close()
		}
	})
}
