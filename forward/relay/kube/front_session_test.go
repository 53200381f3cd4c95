package kube

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Each connection of a session is asked for anew, for the caller that was let in.
func TestEachConnectionIsAskedFor(t *testing.T) {
	b := newBench(t, Config{})
	defer b.kube.Close()
	refused := &stream.Error{Code: stream.Forbidden, Text: "not any more"}
	b.do = func(ctx context.Context, s *session) {
		c, err := s.Dial(ctx, 80, kubectl.DoorSPDY)
		if err != nil || c.Close() != nil || c.Close() != nil {
			t.Error(err)
		}
		b.err = refused
		if c, err := s.Dial(ctx, 443, kubectl.DoorV4); !errors.Is(err, refused) || c != nil {
			t.Errorf("%v, %v", c, err)
		}
		if s.live != 0 {
			t.Errorf("%d live connections", s.live)
		}
	}
	b.ask(t, http.MethodPost, webPath)
	if len(b.calls) != 2 {
		t.Fatalf("%d calls", len(b.calls))
	}
	for i, want := range []relay.Call{
		{From: "192.0.2.1:1234", Door: kubectl.DoorSPDY, Target: relay.Target{Namespace: "ns", Pod: "web", Port: 80}},
		{From: "192.0.2.1:1234", Door: kubectl.DoorV4, Target: relay.Target{Namespace: "ns", Pod: "web", Port: 443}},
	} {
		got := b.calls[i]
		if got.Who.Name != "ann" || got.From != want.From || got.Door != want.Door || got.Target != want.Target {
			t.Errorf("call %d: %+v", i, got)
		}
	}
}

// An agent that comes back in a moment is waited for, and one that does not is a
// refusal that kubectl can show.
func TestAgentIsWaitedForShortly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		defer b.kube.Close()
		b.offline = map[string]bool{"node1": true}
		began := time.Now()
		w := b.ask(t, http.MethodGet, webPath)
		if message, reason := statusOf(t, w.Body.String()); w.Code != http.StatusServiceUnavailable || reason != "ServiceUnavailable" || !strings.Contains(message, "node1") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if took := time.Since(began); took < agentTime || took > 2*agentTime || len(b.let) > 0 {
			t.Errorf("after %v, %d let in", took, len(b.let))
		}
		back := time.AfterFunc(agentTime/2, func() { b.api.set(func() { delete(b.offline, "node1") }) })
		defer back.Stop()
		if w := b.ask(t, http.MethodGet, webPath); w.Code != http.StatusOK || len(b.let) != 1 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		// What was remembered of the pod is looked at again before anybody waits.
		b.offline = map[string]bool{"node1": true}
		b.api.set(func() { b.api.pods["ns/web"] = pod("web", "uid-2", "node2") })
		began = time.Now()
		if w := b.ask(t, http.MethodGet, webPath); w.Code != http.StatusOK || time.Since(began) > 0 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

// A relay that goes away leaves connections their time and ends a session when it
// has none left.
func TestSessionsOfARelayThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.do = func(ctx context.Context, s *session) {
			live, hangUp := context.WithCancel(ctx)
			var joined sync.WaitGroup
			c, err := s.Dial(ctx, 80, kubectl.DoorSPDY)
			if err != nil {
				t.Error(err)
				hangUp()
				return
			}
			joined.Go(func() { _ = c.Join(live, nil) })
			close(b.drain)
			synctest.Wait()
			select {
			case <-s.Over():
				t.Error("over while a connection runs")
			default:
			}
			hangUp()
			joined.Wait()
			<-s.Over()
			if stream.CodeOf(s.Why()) != stream.GoingAway {
				t.Error(s.Why())
			}
		}
		b.ask(t, http.MethodPost, webPath)
		if len(b.let) != 1 {
			t.Error("not let in")
		}
		_ = b.kube.Close()
	})
}

// A session ends when its pod is gone for good or the right to it is, and not
// when it is idle.
func TestSessionsThatMustEnd(t *testing.T) {
	tests := map[string]struct {
		change func(*bench)
		within time.Duration
		code   stream.Code
	}{
		"pod gone":       {func(b *bench) { delete(b.api.pods, "ns/web") }, time.Minute, stream.PodNotFound},
		"pod done":       {phase(corev1.PodFailed), time.Minute, stream.NamespaceGone},
		"access revoked": {func(b *bench) { b.api.rights = func(string, *authorizationv1.ResourceAttributes) bool { return false } }, time.Minute, stream.Forbidden},
		"relay leaves":   {func(b *bench) { close(b.drain) }, 0, stream.GoingAway},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Config{})
				b.do = func(_ context.Context, s *session) {
					time.Sleep(10 * time.Minute)
					select {
					case <-s.Over():
						t.Error("over for no reason:", s.Why())
						return
					default:
					}
					b.api.set(func() { tt.change(b) })
					began := time.Now()
					<-s.Over()
					if stream.CodeOf(s.Why()) != tt.code || time.Since(began) > tt.within {
						t.Errorf("after %v: %v", time.Since(began), s.Why())
					}
				}
				b.ask(t, http.MethodGet, webPath)
				_ = b.kube.Close()
			})
		})
	}
}
