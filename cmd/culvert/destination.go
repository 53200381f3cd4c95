package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/forward/client/kube"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// checkPause is the time between two questions whether the way is free.
const checkPause = 500 * time.Millisecond

// destination is what connections are forwarded to: one pod of a relay without
// Kubernetes, or whatever stands behind a target in a cluster.
type destination interface {
	// watch keeps the destination up to date until ctx ends.
	watch(ctx context.Context)
	// await waits until connections can be made, or ctx ends, which is for as long
	// as a person was told. It returns the ports in their order.
	await(ctx context.Context, c *client.Client, patience time.Duration) ([]client.Ports, error)
	// route is the way to the port with the index.
	route(i int) client.Route
	// target is the pod that an error may be about, as far as that is known.
	target() client.Target
}

// destination makes ready what was asked for. It fails at once if the target does
// not exist.
func (a *app) destination(ctx context.Context, flags *relayFlags, what request) (destination, client.Config, error) {
	if c, err := flags.cluster(a); err == nil && c == nil {
		if _, err := newOnePod(what); err != nil {
			return nil, client.Config{}, err // no relay is needed to know that
		}
	}
	way, err := a.access(ctx, flags)
	if err != nil {
		return nil, client.Config{}, err
	}
	d, err := a.destinationOver(ctx, way, what)
	return d, way.client, err
}

// destinationOver is destination with the way to the relay found.
func (a *app) destinationOver(ctx context.Context, way *access, what request) (destination, error) {
	if way.cluster != nil {
		return a.follow(ctx, way, what)
	}
	d, err := newOnePod(what)
	if err != nil {
		return nil, err
	}
	d.voice, d.namespace = a.voice, way.namespace
	return d, nil
}

// onePod is a pod that the relay knows.
type onePod struct {
	voice          *voice
	namespace, pod string
	ports          []client.Ports
}

// newOnePod refuses what only Kubernetes knows.
func newOnePod(what request) (*onePod, error) {
	if what.selector != "" {
		return nil, fmt.Errorf("selector %q: %w", what.selector, client.ErrNeedsKubernetes)
	}
	pod, err := what.ref.PodName()
	if err != nil {
		return nil, err
	}
	d := &onePod{pod: pod}
	for _, s := range what.texts {
		p, err := client.ParsePorts(s)
		if err != nil {
			return nil, &usageError{err.Error()}
		}
		d.ports = append(d.ports, p)
	}
	return d, nil
}

func (d *onePod) watch(context.Context) {}

func (d *onePod) target() client.Target { return client.Target{Namespace: d.namespace, Pod: d.pod} }

func (d *onePod) route(i int) client.Route {
	return client.Target{Namespace: d.namespace, Pod: d.pod, Port: d.ports[i].Remote}
}

func (d *onePod) await(ctx context.Context, c *client.Client, patience time.Duration) ([]client.Ports, error) {
	_, err := c.AwaitPod(ctx, d.namespace, d.pod, func() {
		d.voice.say("waiting up to %v for pod %q in namespace %q", patience, d.pod, d.namespace)
	})
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("waited %v: %w", patience, err)
		}
		return nil, &targetError{err, d.target()}
	}
	return d.ports, nil
}

// followed is a target in a cluster.
type followed struct {
	voice     *voice
	namespace string
	follower  *kube.Follower
	specs     []client.PortSpec
}

func (a *app) follow(ctx context.Context, way *access, what request) (*followed, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	f, err := kube.Follow(ctx, kube.Config{
		API: way.cluster.api, Namespace: way.namespace, Ref: what.ref, Selector: what.selector,
		Moved:   func(pod string) { a.voice.say("new connections go to pod %s now", pod) },
		Trouble: func(err error) { a.voice.say("warning: %s; trying again", kubeReason(err)) },
	})
	if err != nil {
		return nil, err
	}
	return &followed{voice: a.voice, namespace: way.namespace, follower: f, specs: what.ports}, nil
}

func (d *followed) watch(ctx context.Context) { d.follower.Run(ctx) }

func (d *followed) route(i int) client.Route { return d.follower.Route(d.specs[i]) }

func (d *followed) target() client.Target {
	t := client.Target{Namespace: d.namespace}
	if p, ok := d.follower.Current(); ok {
		t.Pod = p.Name
	}
	return t
}

func (d *followed) await(ctx context.Context, c *client.Client, patience time.Duration) ([]client.Ports, error) {
	if _, ok := d.follower.Current(); !ok {
		d.voice.say("waiting up to %v for %s in namespace %q", patience, d.follower, d.namespace)
	}
	pod, err := d.follower.Await(ctx)
	if err != nil {
		return nil, &targetError{err, d.target()}
	}
	if !pod.Ready {
		d.voice.say("warning: pod %s is not ready", pod.Name)
	}
	ports, err := d.follower.Ports(ctx, d.specs)
	if err != nil {
		return nil, err
	}
	if err := c.Ready(ctx); err != nil {
		return nil, fmt.Errorf("waited %v: %w", patience, err)
	}
	for i := range d.specs {
		if err := d.check(ctx, c, i); err != nil {
			return nil, &targetError{err, d.target()}
		}
	}
	return ports, nil
}

// check asks the relay whether a connection would get through, and waits for what
// passes. Nothing is promised before.
func (d *followed) check(ctx context.Context, c *client.Client, i int) error {
	route := d.route(i)
	var last error
	for {
		t, err := route.Next(ctx)
		if err != nil {
			return cmp.Or(last, err)
		}
		err = asked(c.Check(ctx, t))
		switch {
		case err == nil || client.Unasked(err):
			return nil
		case ctx.Err() == nil || last == nil: // else it only says that the time is up
			last = err
		}
		switch stream.CodeOf(err) {
		case stream.Forbidden, stream.Unauthenticated, stream.Policy:
			return err
		}
		route.Refused(t, err)
		if !connect.Sleep(ctx, checkPause) {
			return last
		}
	}
}

// isCode tells whether err is an answer of the relay with the code.
func isCode(err error, code stream.Code) bool { return errors.Is(err, &stream.Error{Code: code}) }

func isStream(err error) bool {
	_, ok := asStream(err)
	return ok
}

// asked turns the answer to a check into what a stream would have been told.
func asked(answer *controlv1.CheckResponse, err error) error {
	if err != nil {
		return err
	}
	for _, s := range answer.GetSteps() {
		if err := stepError(s); err != nil {
			return err
		}
	}
	return nil
}

func stepError(s *controlv1.CheckStep) error {
	if s.GetCode() == 0 {
		return nil
	}
	return &stream.Error{Code: stream.Code(min(s.GetCode(), math.MaxUint16)), Text: s.GetDetail()}
}

// asStream returns the relay's answer in err.
func asStream(err error) (*stream.Error, bool) { return errors.AsType[*stream.Error](err) }
