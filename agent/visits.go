package agent

import (
	"context"
	"errors"
	"sync"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// visits are the streams that run inside pods, or are on their way into one. When a pod goes, nobody in its
// namespace is left to say so: its loopback device is down, and what is sent to
// it is neither answered nor refused. So the agent ends them itself. The zero
// value is ready.
type visits struct {
	mu  sync.Mutex
	all map[*visit]struct{}
}

// visit is one stream in a pod. Of the pod that a stream is on its way to only the UID
// is known.
type visit struct {
	pod sandbox.Pod
	end context.CancelCauseFunc
}

// enter notes a stream into a pod. The context ends when the pod goes; leave
// must be called when the stream has ended.
func (vs *visits) enter(ctx context.Context, pod sandbox.Pod) (_ context.Context, leave func()) {
	ctx, end := context.WithCancelCause(ctx)
	v := &visit{pod: pod, end: end}
	vs.mu.Lock()
	if vs.all == nil {
		vs.all = make(map[*visit]struct{})
	}
	vs.all[v] = struct{}{}
	vs.mu.Unlock()
	return ctx, func() {
		vs.mu.Lock()
		delete(vs.all, v)
		vs.mu.Unlock()
		end(nil)
	}
}

// pods returns the pods that streams run in.
func (vs *visits) pods() map[sandbox.Pod]bool {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	pods := make(map[sandbox.Pod]bool)
	for v := range vs.all {
		pods[v.pod] = true
	}
	return pods
}

// end ends the streams in a pod.
func (vs *visits) end(pod sandbox.Pod, cause error) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	for v := range vs.all {
		if v.pod == pod {
			v.end(cause)
		}
	}
}

// leaveGonePods ends the streams in pods that are no more, or that have a new
// sandbox, and those on their way to a pod that was listed until now. A pod that is not
// listed is asked after first: the list may be behind.
func (a *Agent) leaveGonePods(ctx context.Context) {
	inside := a.visits.pods()
	listed := make(map[string]bool)
	for _, pod := range a.cfg.Pods.List() {
		listed[pod.UID] = true
		delete(inside, pod)
	}
	a.podsMu.Lock()
	before := a.podsListed
	a.podsListed = listed
	a.podsMu.Unlock()
	for pod := range inside {
		onTheWay := pod == sandbox.Pod{UID: pod.UID}
		if onTheWay && (listed[pod.UID] || !before[pod.UID]) {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, a.cfg.OpenTimeout)
		now, _, err := a.cfg.Pods.Find(limited, pod.UID, 0)
		cancel()
		if errors.Is(err, &stream.Error{Code: stream.WrongNode}) || err == nil && !onTheWay && moved(pod, now) {
			a.visits.end(pod, &stream.Error{Code: stream.NamespaceGone, Text: "the pod is gone"})
		}
	}
}

// moved tells whether a pod has a new sandbox, and with it another network. One
// that shares the network of the node stays where it is.
func moved(was, now sandbox.Pod) bool {
	return !now.HostNetwork && !now.Created.Equal(was.Created)
}
