package kube

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/policy"
	"github.com/culvert-k8s/culvert/proto/stream"
)

var (
	_ relay.Locator   = (*Kube)(nil)
	_ relay.Forgetter = (*Kube)(nil)
)

// errWaits marks a pod that is there and does not run yet.
var errWaits = errors.New("the pod waits")

// spot is a pod as one caller sees it.
type spot struct {
	who             [sha256.Size]byte
	namespace, name string
	outOfTurn       bool
}

// found is what is remembered of a pod.
type found struct {
	relay.Place
	// once: whoever made the pod gives no second one its name.
	once bool
}

// Locate reads the pod with the caller's own credential, as kubectl does before
// it forwards a port. What is not running is refused, and so is a pod on its
// node's own network unless Config.AllowHostNetwork is set.
func (k *Kube) Locate(ctx context.Context, who relay.Identity, t relay.Target) (relay.Place, error) {
	f, err := k.find(ctx, who, t)
	return f.Place, err
}

func (k *Kube) find(ctx context.Context, who relay.Identity, t relay.Target) (found, error) {
	c, err := caller(who)
	if err != nil {
		return found{}, err
	}
	if err := checkTarget(t); err != nil {
		return found{}, err
	}
	f, err := k.places.get(ctx, spot{c.key, t.Namespace, t.Pod, outOfTurn(ctx)}, func(ctx context.Context) (found, time.Duration, error) {
		if err := k.turnOf(ctx, c); err != nil {
			return found{}, 0, err
		}
		pod, err := k.calls.pod(ctx, c, t.Namespace, t.Pod)
		if err == nil {
			err = k.reachable(pod)
		}
		if err != nil {
			return found{}, 0, err // never remembered: the pod may be there in a moment
		}
		return found{relay.Place{
			Node: pod.Spec.NodeName, UID: string(pod.UID), About: policy.AboutPod(pod.Labels, pod.Annotations),
		}, once(pod)}, k.cfg.PlaceTTL, nil
	})
	if err != nil {
		return found{}, fmt.Errorf("locate pod %s in namespace %s: %w", t.Pod, t.Namespace, err)
	}
	return f, nil
}

// once tells whether the pod's name is one that its controller made up, as all but
// those of StatefulSets do: then none of that name follows it.
func once(pod *corev1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return false
	}
	switch owner.Kind {
	case "ReplicaSet", "DaemonSet", "Job", "ReplicationController":
		return true
	}
	return false
}

// Forget drops what is remembered of the pod, for every caller.
func (k *Kube) Forget(t relay.Target, _ relay.Place) {
	k.places.forget(func(s spot) bool { return s.namespace == t.Namespace && s.name == t.Pod })
}

// reachable refuses a pod that nothing can be forwarded to.
func (k *Kube) reachable(pod *corev1.Pod) error {
	phase := pod.Status.Phase
	switch {
	case over(pod):
		return notRunning(stream.NamespaceGone, phase, "wait for its successor")
	case pod.Spec.NodeName == "":
		return fmt.Errorf("%w: %w", &stream.Error{
			Code: stream.Unreachable, Text: "pod is not scheduled to a node yet: see kubectl describe pod",
		}, errWaits)
	case phase == corev1.PodPending:
		return fmt.Errorf("%w: %w", notRunning(stream.Unreachable, phase, "see kubectl describe pod"), errWaits)
	case !isName(pod.Spec.NodeName) || len(pod.UID) > stream.MaxUID:
		return &stream.Error{Code: stream.Unreachable, Text: "the API server answered with something that is not the pod; try again"}
	case pod.Spec.HostNetwork && !k.cfg.AllowHostNetwork:
		return &stream.Error{Code: stream.Policy, Text: "pod is on its node's own network, where localhost is the node's: who runs the relay must allow that (--allow-host-network)"}
	}
	return nil
}

// notRunning begins as kubectl would.
func notRunning(code stream.Code, phase corev1.PodPhase, next string) error {
	return &stream.Error{Code: code, Text: fmt.Sprintf("pod is not running. Current status=%s: %s", clip(string(phase)), next)}
}

// over tells whether the pod has ended and will not run again.
func over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
