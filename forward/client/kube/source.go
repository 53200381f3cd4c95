package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/culvert-k8s/culvert/forward/client"
)

const (
	// maxPods bounds the pods that are kept of one target; one of them is used.
	maxPods = 5000
	// pageSize is how many pods are asked for at once.
	pageSize = 500
	// callTimeout bounds one question to the API server.
	callTimeout = 30 * time.Second
	// watchTime is how long one watch lasts, up to twice that. What follows it is
	// a new list, which cures whatever the watch may have missed.
	watchTime = 5 * time.Minute
)

// errBlind means that the user may not watch, only look.
var errBlind = errors.New("may not watch")

// source is where a Follower's pods come from.
type source interface {
	// look returns the pods as they are now.
	look(ctx context.Context) (snapshot, error)
	// watch tells of changes since a snapshot until ctx ends, which is an error, or
	// the server ends it. The error errBlind stands for good.
	watch(ctx context.Context, since snapshot, tell func(p pod, gone bool)) error
}

// snapshot is a target at one moment.
type snapshot struct {
	pods     []pod
	selector string
	version  string
	service  *service // nil if the target is none
}

// apiSource asks the API server.
type apiSource struct {
	api       *API
	namespace string
	ref       client.Ref // empty if a selector was given
	selector  string
}

// single tells whether the target is one pod by name.
func (s *apiSource) single() bool { return s.ref.Type == "pods" }

func (s *apiSource) look(ctx context.Context) (snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if s.single() {
		p, err := s.api.Core.Pods(s.namespace).Get(ctx, s.ref.Name, metav1.GetOptions{})
		if err != nil {
			return snapshot{}, err
		}
		return snapshot{pods: []pod{podOf(p)}}, nil
	}
	var snap snapshot
	var err error
	if snap.selector, snap.service, err = s.find(ctx); err != nil {
		return snapshot{}, err
	}
	err = s.api.pages(ctx, s.namespace, snap.selector, func(page *corev1.PodList) bool {
		for i := range page.Items {
			snap.pods = append(snap.pods, podOf(&page.Items[i]))
		}
		snap.version = page.ResourceVersion
		return len(snap.pods) < maxPods
	})
	if err != nil {
		return snapshot{}, err
	}
	return snap, nil
}

// find returns the selector of the target's pods. A service may point to others
// at any time, so it is asked each time.
func (s *apiSource) find(ctx context.Context) (selector string, svc *service, err error) {
	get := metav1.GetOptions{}
	var match *metav1.LabelSelector
	var equal map[string]string
	switch s.ref.Type {
	case "":
		return s.selector, nil, nil
	case "services":
		o, err := s.api.Core.Services(s.namespace).Get(ctx, s.ref.Name, get)
		if err != nil {
			return "", nil, err
		}
		svc, equal = serviceOf(o), o.Spec.Selector
		if len(equal) == 0 {
			return "", nil, fmt.Errorf("invalid service '%s': Service is defined without a selector", o.Name)
		}
	case "replicationcontrollers":
		o, err := s.api.Core.ReplicationControllers(s.namespace).Get(ctx, s.ref.Name, get)
		if err != nil {
			return "", nil, err
		}
		equal = o.Spec.Selector
	default:
		if match, err = s.match(ctx, get); err != nil {
			return "", nil, err
		}
	}
	return selectorText(s.ref, match, equal, svc)
}

// selectorText makes a selector of either form. An empty one would select
// everything in the namespace, which nobody means.
func selectorText(ref client.Ref, match *metav1.LabelSelector, equal map[string]string, svc *service) (string, *service, error) {
	selector := labels.SelectorFromSet(equal)
	if match != nil {
		var err error
		if selector, err = metav1.LabelSelectorAsSelector(match); err != nil {
			return "", nil, fmt.Errorf("%s: invalid label selector: %w", ref, err)
		}
	}
	if selector.Empty() {
		return "", nil, fmt.Errorf("%s selects no pods", ref)
	}
	return selector.String(), svc, nil
}

// match returns the selector of what makes pods.
func (s *apiSource) match(ctx context.Context, get metav1.GetOptions) (*metav1.LabelSelector, error) {
	switch s.ref.Type {
	case "deployments":
		o, err := s.api.Apps.Deployments(s.namespace).Get(ctx, s.ref.Name, get)
		if err != nil {
			return nil, err
		}
		return o.Spec.Selector, nil
	case "replicasets":
		o, err := s.api.Apps.ReplicaSets(s.namespace).Get(ctx, s.ref.Name, get)
		if err != nil {
			return nil, err
		}
		return o.Spec.Selector, nil
	case "statefulsets":
		o, err := s.api.Apps.StatefulSets(s.namespace).Get(ctx, s.ref.Name, get)
		if err != nil {
			return nil, err
		}
		return o.Spec.Selector, nil
	case "daemonsets":
		o, err := s.api.Apps.DaemonSets(s.namespace).Get(ctx, s.ref.Name, get)
		if err != nil {
			return nil, err
		}
		return o.Spec.Selector, nil
	case "jobs":
		o, err := s.api.Batch.Jobs(s.namespace).Get(ctx, s.ref.Name, get)
		if err != nil {
			return nil, err
		}
		return o.Spec.Selector, nil
	}
	return nil, fmt.Errorf("%s has no pods", s.ref)
}

func (s *apiSource) watch(ctx context.Context, since snapshot, tell func(pod, bool)) error {
	seconds := int64((watchTime + rand.N(watchTime)).Seconds()) //nolint:gosec // no secret
	options := metav1.ListOptions{LabelSelector: since.selector, ResourceVersion: since.version, TimeoutSeconds: &seconds}
	w, err := s.api.Core.Pods(s.namespace).Watch(ctx, options)
	switch {
	case apierrors.IsForbidden(err), apierrors.IsMethodNotSupported(err):
		return errBlind
	case err != nil:
		return err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, open := <-w.ResultChan():
			if !open {
				return nil
			}
			p, isPod := e.Object.(*corev1.Pod)
			switch {
			case e.Type == watch.Error:
				return apierrors.FromObject(e.Object)
			case isPod:
				tell(podOf(p), e.Type == watch.Deleted)
			}
		}
	}
}
