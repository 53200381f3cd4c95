package kube

import (
	"cmp"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pod is what is kept of a pod. It is never changed.
type pod struct {
	uid        types.UID
	name       string
	node       string
	phase      corev1.PodPhase
	reason     string // why it is not ready, in a word
	ready      bool
	readySince time.Time // zero if it is not, or does not say
	runs       time.Time // since when the youngest of its containers runs, zero if none does
	deleting   bool
	created    time.Time
	restarts   int32
	ports      []containerPort
}

type containerPort struct {
	name     string
	number   int32
	protocol corev1.Protocol
}

func podOf(p *corev1.Pod) pod {
	out := pod{
		uid: p.UID, name: p.Name, node: p.Spec.NodeName,
		phase: p.Status.Phase, reason: p.Status.Reason,
		deleting: p.DeletionTimestamp != nil, created: p.CreationTimestamp.Time,
	}
	for _, c := range p.Status.Conditions {
		switch {
		case c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue:
			out.ready, out.readySince = true, c.LastTransitionTime.Time
		case c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse:
			out.reason = cmp.Or(out.reason, c.Reason)
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		out.restarts = max(out.restarts, s.RestartCount)
		if s.State.Waiting != nil {
			out.reason = cmp.Or(out.reason, s.State.Waiting.Reason)
		}
		if s.State.Running != nil && s.State.Running.StartedAt.After(out.runs) {
			out.runs = s.State.Running.StartedAt.Time
		}
	}
	for _, containers := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range containers {
			for _, port := range c.Ports {
				out.ports = append(out.ports, containerPort{port.Name, port.ContainerPort, port.Protocol})
			}
		}
	}
	return out
}

// running tells whether connections can be made into the pod at all.
func (p *pod) running() bool { return p.phase == corev1.PodRunning }

// over tells whether it will never run again.
func (p *pod) over() bool { return p.phase == corev1.PodSucceeded || p.phase == corev1.PodFailed }

// state is for people.
func (p *pod) state() string {
	state := string(p.phase)
	switch {
	case p.deleting:
		state = "Terminating"
	case p.running() && !p.ready:
		state = "not ready"
	}
	if p.reason != "" {
		state += " (" + p.reason + ")"
	}
	return fmt.Sprintf("%s is %s", p.name, state)
}

// before is the order of kubectl: of two pods that are equally usable it takes
// the one that has been ready for longer, then the one with fewer restarts, then
// the older one.
func (p *pod) before(q *pod) bool {
	if p.ready && q.ready && !p.readySince.Equal(q.readySince) {
		return earlier(p.readySince, q.readySince)
	}
	if p.restarts != q.restarts {
		return p.restarts < q.restarts
	}
	if !p.created.Equal(q.created) {
		return earlier(p.created, q.created)
	}
	return p.name < q.name
}

// earlier puts times that are not known last.
func earlier(a, b time.Time) bool {
	return !a.IsZero() && (b.IsZero() || a.Before(b))
}
