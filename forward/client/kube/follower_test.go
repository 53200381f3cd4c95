package kube

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// stage is a source whose pods the test moves.
type stage struct {
	mu    sync.Mutex
	pods  []pod
	err   error
	blind bool
	dead  bool // watches say nothing
	looks int
	event chan struct{} // closed and replaced at each change
}

func newStage(pods ...pod) *stage { return &stage{pods: pods, event: make(chan struct{})} }

func (s *stage) set(err error, pods ...pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods, s.err = pods, err
	close(s.event)
	s.event = make(chan struct{})
}

func (s *stage) look(context.Context) (snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	return snapshot{pods: s.pods}, s.err
}

func (s *stage) watch(ctx context.Context, since snapshot, tell func(pod, bool)) error {
	known := map[string]pod{}
	for _, p := range since.pods {
		known[p.name] = p
	}
	for {
		s.mu.Lock()
		pods, blind, dead, event := s.pods, s.blind, s.dead, s.event
		s.mu.Unlock()
		if blind {
			return errBlind
		}
		if dead {
			<-ctx.Done()
			return ctx.Err()
		}
		now := map[string]pod{}
		for _, p := range pods {
			now[p.name] = p
			tell(p, false)
		}
		for name, p := range known {
			if _, still := now[name]; !still {
				tell(p, true)
			}
		}
		known = now
		select {
		case <-event:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *stage) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.looks
}

// following runs a Follower over a stage.
func following(t *testing.T, s *stage, single bool, cfg Config) *Follower {
	t.Helper()
	cfg.Namespace = "ns"
	if cfg.Ref.Type == "" {
		cfg.Ref = client.Ref{Type: "deployments", Name: "web"}
	}
	f, err := follow(t.Context(), cfg, s, single)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); f.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return f
}

func next(t *testing.T, r client.Route) string {
	t.Helper()
	target, err := r.Next(t.Context())
	if err != nil {
		return "error: " + err.Error()
	}
	return target.Pod
}

func ready(name string) pod { return made(name, "Rr", 0) }

func eighty() client.PortSpec { return client.PortSpec{Local: 80, Remote: 80} }

func TestFollowsARollout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(ready("old"))
		var moved []string
		f := following(t, s, false, Config{Moved: func(pod string) { moved = append(moved, pod) }})
		r := f.Route(eighty())
		if got := next(t, r); got != "old" {
			t.Errorf("went to %q", got)
		}
		s.set(nil, made("old", "Rrd", 0), ready("new"))
		synctest.Wait()
		if len(moved) != 1 || moved[0] != "new" {
			t.Errorf("told of %q before anybody connected", moved)
		}
		if got := next(t, r); got != "new" {
			t.Errorf("went to %q", got)
		}
		time.Sleep(time.Hour)
		if n := s.asked(); n != 1 {
			t.Errorf("looked %d times while it watched", n)
		}
	})
}

func TestConnectionWaitsForAPod(t *testing.T) {
	for name, blind := range map[string]bool{"watching": false, "looking": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(ready("old"))
				s.blind = blind
				f := following(t, s, false, Config{})
				r := f.Route(eighty())
				next(t, r)
				s.set(nil)
				time.Sleep(lookIdle + time.Second)
				began := time.Now()
				time.AfterFunc(3*time.Second, func() { s.set(nil, ready("new")) })
				if got := next(t, r); got != "new" {
					t.Errorf("went to %q", got)
				}
				if late := time.Since(began) - 3*time.Second; late > time.Second {
					t.Errorf("%v late", late)
				}

				s.set(nil, made("sad", "P", 0))
				time.Sleep(lookIdle + time.Second)
				began = time.Now()
				got := next(t, r)
				if got != "error: deployments/web: no pod can be used now: sad is Pending" || time.Since(began) != 10*time.Second {
					t.Errorf("%q after %v", got, time.Since(began))
				}
			})
		})
	}
}

func TestLooksSeldomWithoutNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(ready("web"))
		s.blind = true
		following(t, s, false, Config{})
		time.Sleep(time.Minute)
		if n := s.asked(); n > 14 {
			t.Errorf("looked %d times in a minute", n)
		}
	})
}

func TestPlainPodIsLookedAtOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(ready("web"))
		f := following(t, s, true, Config{Ref: client.Ref{Type: "pods", Name: "web"}})
		r := f.Route(eighty())
		time.Sleep(time.Hour)
		if got := next(t, r); got != "web" || s.asked() != 1 {
			t.Errorf("went to %q, looked %d times", got, s.asked())
		}
		gone := apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "web")
		s.set(gone)
		if !r.Refused(client.Target{Namespace: "ns", Pod: "web", Port: 80}, &stream.Error{Code: stream.PodNotFound}) {
			t.Error("not worth another try")
		}
		if got := next(t, r); got != `error: pods "web" not found` {
			t.Errorf("went to %q", got)
		}
		born := ready("web")
		born.uid = "another"
		time.AfterFunc(2*time.Second, func() { s.set(nil, born) })
		if got := next(t, r); got != "web" {
			t.Errorf("went to %q", got)
		}
		if !r.Refused(client.Target{Pod: "web"}, &stream.Error{Code: stream.AgentOffline}) || r.Refused(client.Target{Pod: "web"}, &stream.Error{Code: stream.NotListening}) {
			t.Error("took the wrong refusals for passing")
		}
		began := time.Now()
		if got := next(t, r); got != "web" || time.Since(began) != refusedFor {
			t.Errorf("%q after %v", got, time.Since(began))
		}
	})
}

// A watch whose connection has died says nothing; a refusal shows that the picture
// is old.
func TestRefusalDoesNotTrustTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(ready("old"))
		s.dead = true
		f := following(t, s, false, Config{})
		r := f.Route(eighty())
		next(t, r)
		s.set(nil, ready("new"))
		r.Refused(client.Target{Pod: "old"}, &stream.Error{Code: stream.PodNotFound})
		began := time.Now()
		if got := next(t, r); got != "new" || time.Since(began) > time.Second {
			t.Errorf("%q after %v", got, time.Since(began))
		}
	})
}

func TestServerThatIsAwayIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(ready("web"))
		s.blind = true
		var told atomic.Int32
		f := following(t, s, false, Config{Trouble: func(error) { told.Add(1) }})
		time.Sleep(time.Minute)
		s.set(errors.New("no route to host"))
		before := s.asked()
		time.Sleep(10 * time.Minute)
		if n := s.asked() - before; told.Load() != 1 || n > 30 {
			t.Errorf("told %d times, looked %d times", told.Load(), n)
		}
		if got := next(t, f.Route(eighty())); got != "web" {
			t.Errorf("went to %q: what was known is good", got)
		}
		s.set(nil, ready("web"))
		time.Sleep(time.Minute)
		s.set(errors.New("no route to host"))
		time.Sleep(time.Minute)
		if told.Load() != 2 {
			t.Errorf("told %d times", told.Load())
		}
	})
}

func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(made("web", "P", 0))
		ref := client.Ref{Type: "pods", Name: "web"}
		f := following(t, s, true, Config{Ref: ref})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := f.Await(ctx); err == nil || err.Error() != "unable to forward port because pod is not running. Current status=Pending" {
			t.Errorf("Await = %v", err)
		}
		s.set(nil, made("web", "R", 0))
		if p, err := f.Await(t.Context()); err != nil || p.Name != "web" || p.Ready {
			t.Errorf("Await = %+v, %v", p, err)
		}
		ports, err := f.Ports(t.Context(), []client.PortSpec{eighty()})
		if err != nil || ports[0] != (client.Ports{Local: 80, Remote: 80}) {
			t.Errorf("Ports = %v, %v", ports, err)
		}
		if _, err := f.Ports(t.Context(), []client.PortSpec{{Name: "http"}}); err == nil || !strings.Contains(err.Error(), "named port") {
			t.Errorf("Ports = %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ended := made("web", "R", 0)
		ended.phase = corev1.PodSucceeded
		f := following(t, newStage(ended), true, Config{Ref: client.Ref{Type: "pods", Name: "web"}})
		began := time.Now()
		if _, err := f.Await(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "Current status=Succeeded") || time.Since(began) > 0 {
			t.Errorf("Await = %v after %v", err, time.Since(began))
		}
	})
}

func TestFirstLookSaysWhy(t *testing.T) {
	s := newStage()
	s.err = apierrors.NewNotFound(schema.GroupResource{Group: "apps", Resource: "deployments"}, "web")
	if _, err := follow(t.Context(), Config{}, s, false); !apierrors.IsNotFound(err) {
		t.Errorf("follow = %v", err)
	}
	for _, selector := range []string{"a=b=c", "!"} {
		if _, err := Follow(t.Context(), Config{Selector: selector}); err == nil {
			t.Errorf("selector %q is fine", selector)
		}
	}
}
