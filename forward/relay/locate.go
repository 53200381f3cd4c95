package relay

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// byReport tells whether pods are found by what the agents report.
func (s *Server) byReport() bool {
	ns, ok := s.cfg.Locate.(*nodes)
	return ok && ns == s.nodes
}

// elsewhereTime bounds how long a fresh relay keeps who can ask another one.
const elsewhereTime = time.Second

// Locate finds a pod among those the agents reported. It waits for one that is not
// while the relay is fresh, since its agents are on their way back, and for a moment
// after the agent that had reported it was lost.
func (ns *nodes) Locate(ctx context.Context, _ Identity, t Target) (Place, error) {
	name := podName{t.Namespace, t.Pod}
	began := time.Now()
	for {
		place, changed, found := ns.find(name)
		if found {
			return place, nil
		}
		until := ns.awaited("", name)
		if ns.elsewhere != nil && ns.elsewhere() {
			until = ns.settled
			if limit := began.Add(elsewhereTime); limit.Before(until) {
				until = limit
			}
		}
		if !awaitReport(ctx, changed, until) {
			return Place{}, &stream.Error{
				Code: stream.PodNotFound,
				Text: fmt.Sprintf("no connected node reports a pod %s in namespace %s", t.Pod, t.Namespace),
			}
		}
	}
}

func (ns *nodes) find(name podName) (place Place, changed <-chan struct{}, found bool) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	pods := ns.pods[name]
	if len(pods) == 0 {
		return Place{}, ns.changed, false
	}
	p := slices.MinFunc(pods, newestFirst)
	return Place{Node: p.GetNode(), UID: p.GetUid()}, nil, true
}

// awaitReport waits for a report and tells whether there was one in time.
func awaitReport(ctx context.Context, changed <-chan struct{}, until time.Time) bool {
	left := time.Until(until)
	if left <= 0 {
		return false
	}
	limit := time.NewTimer(left)
	defer limit.Stop()
	select {
	case <-changed:
		return true
	case <-limit.C:
	case <-ctx.Done():
	}
	return false
}
