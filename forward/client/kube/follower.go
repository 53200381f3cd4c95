package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Config says which pods to follow. API, Namespace and one of Ref and Selector
// must be set.
type Config struct {
	// API is asked about pods and what makes them.
	API *API
	// Namespace has the target.
	Namespace string
	// Ref is an object with pods, or a pod.
	Ref client.Ref
	// Selector is a label selector in place of Ref.
	Selector string
	// Wait bounds how long a new connection waits for a pod. 0 means 10 s.
	Wait time.Duration
	// Moved, if not nil, hears when new connections go to another pod than
	// before. One call at a time; it must not wait and not call the Follower.
	Moved func(pod string)
	// Trouble, if not nil, hears why the API server could not be asked while Run
	// runs, once per row of errors. What was known goes on to be used.
	Trouble func(error)
}

// Pod is the pod that new connections go to.
type Pod struct {
	// Name and Node are where it is.
	Name, Node string
	// Ready says what its probes say.
	Ready bool
}

// Follower knows which of a target's pods new connections should go to. It
// stays with one pod and takes another one when that pod goes, refuses or is not
// ready for long. Methods may be called from any goroutine.
type Follower struct {
	cfg    Config
	src    source
	single bool
	kick   chan struct{} // capacity 1: somebody needs a fresh look

	mu      sync.Mutex
	scene   scene
	service *service
	changed chan struct{} // closed and replaced when scene or lookErr change
	waiting int           // calls that wait for a pod
	lookErr error         // why the last look failed
	told    string        // name of the last pod that was current
	first   snapshot      // of Follow, for Run
}

// Follow looks for the target once and returns an error if it does not exist or
// may not be seen, as the API server said it. Run keeps the Follower up to date.
func Follow(ctx context.Context, cfg Config) (*Follower, error) {
	if cfg.Selector != "" {
		s, err := labels.Parse(cfg.Selector)
		switch {
		case err != nil:
			return nil, fmt.Errorf("selector %q: %w", cfg.Selector, err)
		case s.Empty():
			return nil, fmt.Errorf("selector %q selects everything", cfg.Selector)
		}
	}
	src := &apiSource{api: cfg.API, namespace: cfg.Namespace, ref: cfg.Ref, selector: cfg.Selector}
	return follow(ctx, cfg, src, src.single())
}

func follow(ctx context.Context, cfg Config, src source, single bool) (*Follower, error) {
	cfg.Wait = cmp.Or(cfg.Wait, 10*time.Second)
	f := &Follower{
		cfg: cfg, src: src, single: single,
		kick: make(chan struct{}, 1), changed: make(chan struct{}),
		scene: scene{single: single},
	}
	first, err := src.look(ctx)
	if err != nil {
		return nil, err
	}
	f.first = first
	f.take(first)
	return f, nil
}

// String names the target for people.
func (f *Follower) String() string {
	switch {
	case f.cfg.Selector != "":
		return "pods with " + f.cfg.Selector
	case f.single:
		return fmt.Sprintf("pod %q", f.cfg.Ref.Name)
	}
	return f.cfg.Ref.String()
}

// take makes a snapshot what is known.
func (f *Follower) take(s snapshot) {
	f.update(func(now time.Time) {
		f.service, f.lookErr = s.service, nil
		f.scene.reset(s.pods, now)
	})
}

// update changes what is known and tells who waits for that.
func (f *Follower) update(change func(now time.Time)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	change(now)
	f.settle(now)
	close(f.changed)
	f.changed = make(chan struct{})
}

// settle picks the pod, and says so if it is another one. mu is held.
func (f *Follower) settle(now time.Time) (*pod, time.Time) {
	p, wake := f.scene.settle(now)
	if p != nil && p.name != f.told {
		if f.told != "" && f.cfg.Moved != nil {
			f.cfg.Moved(p.name)
		}
		f.told = p.name
	}
	return p, wake
}

// hurry asks Run for a fresh look.
func (f *Follower) hurry() {
	select {
	case f.kick <- struct{}{}:
	default: // somebody asked already
	}
}

// next returns the pod for a new connection, waiting until ctx ends. Who is not
// hopeful does not wait for a pod that has ended.
func (f *Follower) next(ctx context.Context, hopeful bool) (*pod, *service, error) {
	waits := false
	for {
		f.mu.Lock()
		p, wake := f.settle(time.Now())
		svc, changed, err := f.service, f.changed, f.whyNot()
		if p == nil && !waits {
			waits = true
			f.waiting++
			f.hurry()
			defer f.leave()
		}
		f.mu.Unlock()
		switch {
		case p != nil:
			return p, svc, nil
		case !hopeful && errors.Is(err, errOver):
			return nil, nil, err
		}
		if !sleepUntil(ctx, wake, changed) {
			return nil, nil, err
		}
	}
}

func (f *Follower) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting--
}

// sleepUntil waits for wake, which may be zero, or changed. It tells whether ctx
// still lives.
func sleepUntil(ctx context.Context, wake time.Time, changed <-chan struct{}) bool {
	var due <-chan time.Time
	if !wake.IsZero() {
		t := time.NewTimer(time.Until(wake))
		defer t.Stop()
		due = t.C
	}
	select {
	case <-due:
		return true
	case <-changed:
		return true
	case <-ctx.Done():
		return false
	}
}

// Current returns the pod in use, if there is one.
func (f *Follower) Current() (Pod, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, _ := f.settle(time.Now())
	if p == nil {
		return Pod{}, false
	}
	return Pod{Name: p.name, Node: p.node, Ready: p.ready}, true
}

// Await waits until there is a pod to use, or ctx ends. A pod that has ended is
// not waited for. The errors say how the pods are.
func (f *Follower) Await(ctx context.Context) (Pod, error) {
	p, _, err := f.next(ctx, false)
	if err != nil {
		return Pod{}, err
	}
	return Pod{Name: p.name, Node: p.node, Ready: p.ready}, nil
}

// Ports returns the numbers behind what a person named: of the service's ports
// if the target is one, else of the ports of the pod in use. It waits as Await
// does.
func (f *Follower) Ports(ctx context.Context, specs []client.PortSpec) ([]client.Ports, error) {
	p, svc, err := f.next(ctx, false)
	if err != nil {
		return nil, err
	}
	var out []client.Ports
	for _, spec := range specs {
		ports, err := resolve(spec, svc, p)
		if err != nil {
			return nil, err
		}
		out = append(out, ports)
	}
	return out, nil
}

// Route returns the way to a port of the pod in use, whichever it is then.
func (f *Follower) Route(spec client.PortSpec) client.Route { return &route{f, spec} }

type route struct {
	follower *Follower
	spec     client.PortSpec
}

func (r *route) Next(ctx context.Context) (client.Target, error) {
	ctx, cancel := context.WithTimeout(ctx, r.follower.cfg.Wait)
	defer cancel()
	p, svc, err := r.follower.next(ctx, true)
	if err != nil {
		return client.Target{}, err
	}
	ports, err := resolve(r.spec, svc, p)
	if err != nil {
		return client.Target{}, err
	}
	return client.Target{Namespace: r.follower.cfg.Namespace, Pod: p.name, Port: ports.Remote}, nil
}

// Refused leaves a pod alone that the relay could not reach, and has Run look
// again: another one may be ready, or the same one under the same name.
func (r *route) Refused(t client.Target, err error) bool {
	switch stream.CodeOf(err) {
	case stream.PodNotFound, stream.WrongNode, stream.NamespaceGone, stream.AgentOffline:
		r.follower.update(func(now time.Time) { r.follower.scene.refuse(t.Pod, now) })
		r.follower.hurry()
		return true
	}
	return false
}
