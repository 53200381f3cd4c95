package client

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func TestConnectTriesOnceAndReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{began: time.Now(), outcome: refused}
		c := New(Config{Relays: []Relay{{Addr: "relay:7443"}}})
		c.attach = s.attach
		err := c.Connect(t.Context())
		if !errors.Is(err, syscall.ECONNREFUSED) || len(s.times()) != 1 {
			t.Errorf("Connect = %v after %d attempts", err, len(s.times()))
		}
		if _, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil); !errors.Is(err, ErrOffline) {
			t.Errorf("Open without a session = %v", err)
		}
		c.Close()
		if _, err := c.Pods(t.Context(), ""); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Pods after Close = %v", err)
		}
	})
}

func TestConnectedClientReportsALostSession(t *testing.T) {
	f := newFakeSession()
	c := New(Config{Relays: []Relay{{Addr: "relay:7443"}}})
	c.attach = func(context.Context, Relay) (session, error) { return f, nil }
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f.cut(errCut)
	if _, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil); !errors.Is(err, errCut) {
		t.Errorf("Open = %v, want why the session ended", err)
	}
}

func TestOpenMovesToTheNextSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newFakeSession(), newFakeSession()
		first.onOpen = func(*stream.Open) (conn, error) { first.cut(errCut); return nil, errCut }
		s := &script{outcome: func(n int, _ string) (session, error) {
			if n == 0 {
				return first, nil
			}
			return second, nil
		}}
		c, stop := start(t, s, Config{})
		if _, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil); err != nil {
			t.Errorf("Open = %v, want a stream of the second session", err)
		}
		stop()
	})
}

func TestOpenWaitsOutASessionThatIsEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newFakeSession()
		first.onOpen = func(*stream.Open) (conn, error) {
			time.AfterFunc(time.Second, func() { first.cut(errCut) })
			return nil, tunnel.ErrLost
		}
		s := &script{outcome: func(n int, _ string) (session, error) {
			if n == 0 {
				return first, nil
			}
			return newFakeSession(), nil
		}}
		c, stop := start(t, s, Config{})
		if _, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil); err != nil {
			t.Errorf("Open = %v, want a stream of the second session", err)
		}
		stop()
	})
}

func TestCloseEndsRun(t *testing.T) {
	for name, outcome := range map[string]func(int, string) (session, error){
		"attached": func(int, string) (session, error) { return newFakeSession(), nil },
		"trying":   refused,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := New(Config{Relays: []Relay{{Addr: "relay:7443"}}, MaxBackoff: time.Hour})
				c.attach = (&script{began: time.Now(), outcome: outcome}).attach
				ended := make(chan error, 1)
				go func() { ended <- c.Run(t.Context()) }()
				time.Sleep(10 * time.Minute)
				began := time.Now()
				c.Close()
				if err := <-ended; !errors.Is(err, net.ErrClosed) {
					t.Errorf("Run = %v", err)
				}
				if d := time.Since(began); d > kickFloor {
					t.Errorf("Run went on for %v", d)
				}
			})
		})
	}
}

func TestRelayThatGoesAwayIsLeftButNotCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var leaving []*fakeSession // one relay after the other, and each at once
		fresh := newFakeSession()
		s := &script{outcome: func(n int, _ string) (session, error) {
			if n == 3 {
				return fresh, nil
			}
			l := newFakeSession()
			l.onOpen = func(*stream.Open) (conn, error) {
				return &fakeConn{reply: &stream.Error{Code: stream.GoingAway}}, nil
			}
			leaving = append(leaving, l)
			return l, nil
		}}
		c, stop := start(t, s, Config{})
		if _, err := c.Dial(t.Context(), Target{"ns", "web", 80}); err != nil {
			t.Errorf("Dial = %v, want a stream of the fourth session", err)
		}
		for _, l := range leaving {
			if l.err != nil {
				t.Error("streams on an old session were cut")
			}
		}
		stop()
		for _, l := range append(leaving, fresh) {
			if l.err == nil {
				t.Error("a session outlived Run")
			}
		}
	})
}

// TestRelaysThatAllGoAway has a limit for one who finds no relay that stays.
func TestRelaysThatAllGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		s := &script{outcome: func(int, string) (session, error) {
			dials++
			l := newFakeSession()
			l.onOpen = func(*stream.Open) (conn, error) {
				return &fakeConn{reply: &stream.Error{Code: stream.GoingAway}}, nil
			}
			return l, nil
		}}
		c, stop := start(t, s, Config{WaitTimeout: time.Hour})
		if _, err := c.Dial(t.Context(), Target{"ns", "web", 80}); stream.CodeOf(err) != stream.GoingAway {
			t.Errorf("Dial = %v", err)
		}
		stop()
		if dials < maxLeft || dials > maxLeft+2 {
			t.Errorf("%d sessions, want about %d", dials, maxLeft)
		}
	})
}
