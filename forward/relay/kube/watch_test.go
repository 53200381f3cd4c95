package kube

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func TestWatchKnowsWhenASessionIsOver(t *testing.T) {
	allowed := func(yes bool) func(string, *authorizationv1.ResourceAttributes) bool {
		return func(string, *authorizationv1.ResourceAttributes) bool { return yes }
	}
	phase := func(a *answers, p corev1.PodPhase) func() {
		return func() { a.pods["ns/web"] = pod("web", "u2", "node1", func(q *corev1.Pod) { q.Status.Phase = p }) }
	}
	type change struct {
		after time.Duration
		do    func(*answers) func()
	}
	gone := func(a *answers) func() { return func() { delete(a.pods, "ns/web") } }
	owned := func(kind string) func(a *answers) func() {
		return func(a *answers) func() {
			return func() {
				yes := true
				a.pods["ns/web"] = pod("web", "u1", "node1", func(q *corev1.Pod) {
					q.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: "owner", Controller: &yes}}
				})
			}
		}
	}
	back := func(a *answers) func() { return func() { a.pods["ns/web"] = pod("web", "u2", "node2") } }
	waits := func(a *answers) func() { return phase(a, corev1.PodPending) }
	away := func(a *answers) func() { return func() { a.away = true } }
	tests := map[string]struct {
		changes  []change
		from, to time.Duration // over within, after the last change; 0: not over
		code     stream.Code
	}{
		"all is well": {},
		"deleted":     {[]change{{0, gone}}, 30 * time.Second, 60 * time.Second, stream.PodNotFound},
		"a name of its own, deleted": {
			[]change{{0, owned("ReplicaSet")}, {20 * time.Second, gone}}, 0, 20 * time.Second, stream.PodNotFound,
		},
		"of a StatefulSet, deleted": {
			[]change{{0, owned("StatefulSet")}, {20 * time.Second, gone}}, 30 * time.Second, 60 * time.Second, stream.PodNotFound,
		},
		"ended":               {[]change{{0, func(a *answers) func() { return phase(a, corev1.PodFailed) }}}, 30 * time.Second, 60 * time.Second, stream.NamespaceGone},
		"born again":          {[]change{{0, gone}, {20 * time.Second, back}}, 0, 0, 0},
		"born again, waits":   {[]change{{0, gone}, {20 * time.Second, waits}}, 0, 0, 0},
		"gone, back and gone": {[]change{{0, gone}, {20 * time.Second, waits}, {20 * time.Second, gone}}, 30 * time.Second, 60 * time.Second, stream.PodNotFound},
		"gone while away":     {[]change{{0, gone}, {15 * time.Second, away}}, 0, 0, 0},
		"away":                {[]change{{0, away}}, 0, 0, 0},
		"broken":              {[]change{{0, func(a *answers) func() { return func() { a.code = http.StatusInternalServerError } }}}, 0, 0, 0},
		"the token is over":   {[]change{{0, func(a *answers) func() { return func() { delete(a.users, "tok") } }}}, 0, 0, 0},
		"revoked":             {[]change{{0, func(a *answers) func() { return func() { a.rights = allowed(false) } }}}, 8 * time.Second, 40 * time.Second, stream.Forbidden},
		"denied for a moment": {[]change{
			{0, func(a *answers) func() { return func() { a.rights = allowed(false) } }},
			{5 * time.Second, func(a *answers) func() { return func() { a.rights = allowed(true) } }},
		}, 0, 0, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAnswers()
				a.pods["ns/web"] = pod("web", "u1", "node1")
				k := a.ask(t, Config{})
				ctx, cancel := context.WithCancel(t.Context())
				over, why := k.Watch(ctx, user("tok"), web())
				time.Sleep(time.Minute)
				for _, c := range tt.changes {
					time.Sleep(c.after)
					a.set(c.do(a))
				}
				select {
				case <-over:
					t.Fatalf("over too early: %v", why())
				case <-time.After(tt.from):
				}
				limit := tt.to - tt.from
				if tt.to == 0 {
					limit = time.Hour
				}
				select {
				case <-over:
					if tt.to == 0 || stream.CodeOf(why()) != tt.code || stream.TextOf(why()) == "" {
						t.Errorf("over: %v", why())
					}
				case <-time.After(limit):
					if tt.to != 0 {
						t.Error("not over")
					}
					if why() != nil {
						t.Errorf("a reason without an end: %v", why())
					}
				}
				cancel()
				if err := k.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Watches are cheap: those of one caller to one pod share their questions, and
// those of a caller with too many leave him his share.
func TestWatchesAreFrugal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers()
		k := a.ask(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 1000 {
			name := fmt.Sprintf("p%d", i/2)
			a.set(func() { a.pods["ns/"+name] = pod(name, "u", "node1") })
			k.Watch(ctx, user("tok"), relay.Target{Namespace: "ns", Pod: name})
		}
		time.Sleep(5 * time.Minute)
		asked := a.count("pods") + a.count("selfsubjectaccessreviews")
		if asked > 22*300+100 {
			t.Errorf("asked %d times in five minutes", asked)
		}
		for i := range 20 { // there is room for what the caller does
			began := time.Now()
			if err := k.Authorize(t.Context(), user("tok"), relay.Target{Namespace: "ns", Pod: fmt.Sprintf("new%d", i)}); err != nil || time.Since(began) > time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		}
		cancel()
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Who asks all the time cannot keep a session that he has no right to any more.
func TestBusyCallersAreWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers()
		a.pods["ns/web"] = pod("web", "u1", "node1")
		k := a.ask(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		var busy sync.WaitGroup
		for i := range 400 { // more than any share holds, and the watch's question among them
			busy.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					time.Sleep(time.Second)
					_ = k.Authorize(ctx, user("tok"), relay.Target{Namespace: "ns", Pod: fmt.Sprintf("p%d-%d", i, n)})
					_ = k.Authorize(ctx, user("tok"), web())
				}
			})
		}
		over, why := k.Watch(ctx, user("tok"), web())
		time.Sleep(time.Minute)
		select {
		case <-over:
			t.Fatalf("over too early: %v", why())
		default:
		}
		a.set(func() { a.rights = func(string, *authorizationv1.ResourceAttributes) bool { return false } })
		select {
		case <-over:
			if stream.CodeOf(why()) != stream.Forbidden {
				t.Error(why())
			}
		case <-time.After(time.Minute):
			t.Error("not over")
		}
		cancel()
		busy.Wait()
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
}
