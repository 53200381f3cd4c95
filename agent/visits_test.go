package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// listedPods is a source of pods with a fixed list, and fixed answers to those
// who ask for one.
type listedPods struct {
	reach.Source
	list   []sandbox.Pod
	lookup map[string]sandbox.Pod
	err    error
}

func (p *listedPods) List() []sandbox.Pod { return p.list }

func (p *listedPods) Lookup(_ context.Context, uid string) (sandbox.Pod, error) {
	if pod, ok := p.lookup[uid]; ok {
		return pod, nil
	}
	return sandbox.Pod{}, p.err
}

func TestStreamsEndWithTheirPod(t *testing.T) {
	here := sandbox.Pod{Namespace: "default", Name: "db-0", UID: "1", NetNS: "/run/netns/a"}
	anew := here
	anew.NetNS, anew.Created = "/run/netns/b", time.Unix(1, 0)
	for name, tt := range map[string]struct {
		pods *listedPods
		ends bool
	}{
		"listed":                {&listedPods{list: []sandbox.Pod{here}}, false},
		"not listed, but there": {&listedPods{lookup: map[string]sandbox.Pod{"1": here}}, false},
		"gone":                  {&listedPods{err: sandbox.ErrNotFound}, true},
		"has a new sandbox":     {&listedPods{list: []sandbox.Pod{anew}, lookup: map[string]sandbox.Pod{"1": anew}}, true},
		"runtime is away":       {&listedPods{err: sandbox.ErrUnavailable}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Agent{cfg: Config{Pods: localOf(tt.pods, nil)}}
			ctx, leave := a.visits.enter(t.Context(), here)
			defer leave()
			a.leaveGonePods(t.Context())
			if ended := ctx.Err() != nil; ended != tt.ends {
				t.Fatalf("ended %v, want %v", ended, tt.ends)
			}
			if tt.ends && !errors.Is(context.Cause(ctx), &stream.Error{Code: stream.NamespaceGone}) {
				t.Errorf("cause %v", context.Cause(ctx))
			}
		})
	}
}

// A dial ends with its pod, if that was there before.
func TestDialsEndWithTheirPod(t *testing.T) {
	here := sandbox.Pod{Namespace: "default", Name: "db-0", UID: "1", NetNS: "/run/netns/a"}
	for name, tt := range map[string]struct {
		pods   *listedPods
		before map[string]bool
		ends   bool
	}{
		"listed":                {&listedPods{list: []sandbox.Pod{here}}, map[string]bool{"1": true}, false},
		"not listed, but there": {&listedPods{lookup: map[string]sandbox.Pod{"1": here}}, map[string]bool{"1": true}, false},
		"gone":                  {&listedPods{err: sandbox.ErrNotFound}, map[string]bool{"1": true}, true},
		"was never there":       {&listedPods{err: sandbox.ErrNotFound}, nil, false},
		"runtime is away":       {&listedPods{err: sandbox.ErrUnavailable}, map[string]bool{"1": true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Agent{cfg: Config{Pods: localOf(tt.pods, nil)}}
			ctx, leave := a.visits.enter(t.Context(), sandbox.Pod{UID: "1"})
			defer leave()
			a.podsListed = tt.before
			a.leaveGonePods(t.Context())
			if ended := ctx.Err() != nil; ended != tt.ends || a.podsListed["1"] != (tt.pods.list != nil) {
				t.Fatalf("ended %v, want %v; listed %v", ended, tt.ends, a.podsListed)
			}
		})
	}
}

func TestAVisitThatLeftIsForgotten(t *testing.T) {
	var vs visits
	_, leave := vs.enter(t.Context(), sandbox.Pod{UID: "1"})
	if len(vs.pods()) != 1 {
		t.Fatal("the visit is not noted")
	}
	leave()
	if len(vs.pods()) != 0 {
		t.Fatal("the visit is still noted")
	}
}
