package client

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// maker makes a session.
type maker func() *fakeSession

// replica makes a session to a relay that has an id, and one answer.
func replica(id string, relays uint32, answer error) maker {
	return func() *fakeSession {
		s := newFakeSession()
		s.about = &controlv1.AboutResponse{RelayId: id, Relays: relays}
		s.onOpen = func(*stream.Open) (conn, error) { return &fakeConn{reply: answer}, nil }
		return s
	}
}

// TestAnotherReplicaIsAsked has a node's agent at one relay of three only, behind
// one address that leads to one relay after the other.
func TestAnotherReplicaIsAsked(t *testing.T) {
	offline := &stream.Error{Code: stream.AgentOffline}
	notFound := &stream.Error{Code: stream.PodNotFound}
	for _, tt := range []struct {
		name     string
		sessions []maker // made where time is fake
		dials    int
		want     error
	}{
		{"the third has it", []maker{replica("a", 3, offline), replica("a", 3, offline), replica("b", 3, offline), replica("c", 3, nil)}, 4, nil},
		{"none has it", []maker{replica("a", 2, offline), replica("b", 2, offline)}, 2 + maxLooks, offline},
		{"there is no other", []maker{replica("a", 1, offline)}, 1, offline},
		{"nobody knows of another", []maker{replica("a", 0, offline)}, 1, offline},
		{"the pod is known not to be", []maker{replica("a", 3, notFound)}, 1, notFound},
		{"it goes by what agents report", []maker{byReport(replica("a", 2, notFound)), replica("b", 2, nil)}, 2, nil},
		{"it has another reason", []maker{replica("a", 3, &stream.Error{Code: stream.Forbidden})}, 1, &stream.Error{Code: stream.Forbidden}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var dials atomic.Int64
				var first *fakeSession
				c, stop := start(t, &script{outcome: func(n int, _ string) (session, error) {
					dials.Add(1)
					s := tt.sessions[min(n, len(tt.sessions)-1)]()
					if n == 0 {
						first = s
					}
					return s, nil
				}}, Config{Relays: []Relay{{Addr: "10.0.0.1:7443"}}})
				defer stop()
				for range 2 { // the second finds what the first has found, or not again
					_, err := c.Dial(t.Context(), Target{"ns", "web", 80})
					if stream.CodeOf(err) != stream.CodeOf(tt.want) || (err == nil) != (tt.want == nil) {
						t.Errorf("%v, want %v", err, tt.want)
					}
				}
				if int(dials.Load()) != tt.dials {
					t.Errorf("%d dials, want %d", dials.Load(), tt.dials)
				}
				if present := c.present(); present == nil || present.session != session(first) {
					t.Error("the current session is another one")
				}
				time.Sleep(3 * idleTime) // those beside it are not kept for ever
				synctest.Wait()
				c.mu.Lock()
				left := len(c.others)
				c.mu.Unlock()
				if left != 0 || first.err != nil {
					t.Errorf("%d sessions beside it are left; its own end: %v", left, first.err)
				}
			})
		})
	}
}

func byReport(m maker) maker {
	return func() *fakeSession {
		s := m()
		s.about.ByReport = true
		return s
	}
}

// TestRetiredByItsRelay replaces a session within the time that its relay asks
// for, and at once if somebody waits.
func TestRetiredByItsRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sessions []*fakeSession
		s := &script{outcome: func(int, string) (session, error) {
			sessions = append(sessions, newFakeSession())
			return sessions[len(sessions)-1], nil
		}}
		c, stop := start(t, s, Config{})
		defer stop()
		for i := range 20 {
			time.Sleep(time.Minute)
			synctest.Wait()
			began := time.Now()
			c.retire(c.present(), maxSpread)
			if i%2 == 0 {
				if _, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil); err != nil || time.Since(began) != 0 {
					t.Errorf("Open: %v after %v", err, time.Since(began))
				}
			} else {
				time.Sleep(maxSpread)
				synctest.Wait()
				if c.present() == nil {
					t.Error("not replaced")
				}
			}
		}
		drawn := ""
		for i, at := range s.times()[1:] {
			if wait := at % time.Minute; i%2 == 1 {
				drawn = fmt.Sprint(drawn, wait/time.Second, " ")
			}
		}
		if len(sessions) != 21 || sessions[0].err != nil || strings.Count(drawn, "0 ") > 6 {
			t.Errorf("%d sessions; they came after (s) %s", len(sessions), drawn)
		}
	})
}

// TestWhereARelayIs resolves nothing that is an address or a proxy's business.
func TestWhereARelayIs(t *testing.T) {
	c := New(Config{Relays: []Relay{{Addr: "10.0.0.1:1"}, {Addr: "[fd00::1]:1"}, {Addr: "no-port"}}})
	for _, r := range c.addresses(t.Context()) {
		if r.at != "" {
			t.Errorf("%s is dialled at %s", r.Addr, r.at)
		}
	}
	local := New(Config{Relays: []Relay{{Addr: "localhost:1"}}})
	for _, r := range local.addresses(t.Context()) {
		if r.Addr != "localhost:1" || r.at == "" {
			t.Errorf("%s is dialled at %q", r.Addr, r.at)
		}
	}
	if l := c.look(t.Context(), nil); l != nil || errors.Is(c.Close(), errCut) {
		t.Error("found a relay where there is none")
	}
}
