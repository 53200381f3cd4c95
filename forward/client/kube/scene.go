package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// unreadyFor is how long the pod in use may be unready before another one
	// that is ready takes its place: a single failed probe must not move anybody.
	unreadyFor = 5 * time.Second

	// readyGrace is how long a pod that runs has time to become ready before it is
	// used all the same, if no pod is ready: a person may well want to look into
	// one that is stuck.
	readyGrace = 10 * time.Second

	// refusedFor is how long a pod is left alone that the relay could not reach.
	refusedFor = time.Second
)

// scene is what is known about the pods of a target, and which of them new
// connections go to. It has no clock and no lock.
type scene struct {
	single bool // one pod by name: the person chose it, ready or not

	pods    map[types.UID]*pod
	current types.UID // empty if there is none
	last    types.UID // the current one, or the one that was before there was none
	unready time.Time // since when current is not ready; zero if it is
	refused map[types.UID]time.Time
}

// put adds or replaces a pod, unless there are too many.
func (s *scene) put(p pod, now time.Time) {
	before, known := s.pods[p.uid]
	if !known && len(s.pods) >= maxPods {
		return
	}
	// A clock that differs from the server's must not make anybody wait.
	if p.runs.IsZero() || p.runs.After(now) {
		p.runs = now
	}
	if known && before.running() && before.runs.Before(p.runs) {
		p.runs = before.runs
	}
	s.pods[p.uid] = &p
}

// drop takes a pod away that is no more.
func (s *scene) drop(uid types.UID) {
	delete(s.pods, uid)
	delete(s.refused, uid)
}

// reset makes the pods those of a list.
func (s *scene) reset(list []pod, now time.Time) {
	before := s.pods
	s.pods = make(map[types.UID]*pod, len(list))
	for _, p := range list {
		if q, known := before[p.uid]; known {
			s.pods[p.uid] = q
		}
		s.put(p, now)
	}
	maps.DeleteFunc(s.refused, func(uid types.UID, _ time.Time) bool { return s.pods[uid] == nil })
}

// refuse leaves the pod of the name alone for a moment.
func (s *scene) refuse(name string, now time.Time) {
	for uid, p := range s.pods {
		if p.name == name {
			if s.refused == nil {
				s.refused = make(map[types.UID]time.Time)
			}
			s.refused[uid] = now.Add(refusedFor)
		}
	}
}

// settle decides which pod is current, and returns it, nil if none can be used.
// wake is when the answer may change by itself, zero if it cannot.
func (s *scene) settle(now time.Time) (current *pod, wake time.Time) {
	p, wake := s.choose(now)
	if p == nil {
		s.current, s.unready = "", time.Time{}
		return nil, wake
	}
	if p.uid != s.current {
		s.unready = time.Time{}
	}
	s.current, s.last = p.uid, p.uid
	switch {
	case p.ready:
		s.unready = time.Time{}
	case s.unready.IsZero():
		s.unready = now
	}
	return p, wake
}

func (s *scene) choose(now time.Time) (*pod, time.Time) {
	var wake time.Time
	later := func(t time.Time) {
		if wake.IsZero() || t.Before(wake) {
			wake = t
		}
	}
	var ready, runs *pod
	for _, p := range s.pods {
		if until, bad := s.refused[p.uid]; bad && now.Before(until) {
			later(until)
			continue
		}
		switch {
		case !p.running() || p.deleting:
		case p.ready:
			ready = s.better(ready, p)
		case s.single || p.uid == s.last || !now.Before(p.runs.Add(readyGrace)):
			runs = s.better(runs, p)
		default:
			later(p.runs.Add(readyGrace))
		}
	}
	cur := s.usable(now)
	switch {
	case cur != nil && !cur.deleting && (cur.ready || s.single):
		return cur, wake
	case cur != nil && !cur.deleting && ready != nil && !s.unready.IsZero() && now.Before(s.unready.Add(unreadyFor)):
		later(s.unready.Add(unreadyFor))
		return cur, wake
	case cur != nil && !cur.deleting && ready != nil && s.unready.IsZero():
		later(now.Add(unreadyFor)) // settle notes that it began now
		return cur, wake
	case ready != nil:
		return ready, wake
	case cur != nil:
		return cur, wake // on its way out, or unready, and there is no better one
	}
	return runs, wake
}

// usable returns the pod in use if it can still be used.
func (s *scene) usable(now time.Time) *pod {
	p := s.pods[s.current]
	if p == nil || !p.running() || now.Before(s.refused[s.current]) {
		return nil
	}
	return p
}

// better is the first choice of two. kubectl's order leads to the pod that has
// lived longest; when that one went, a rollout may be under way and the youngest
// is the one to stay.
func (s *scene) better(a, b *pod) *pod {
	if a == nil {
		return b
	}
	if s.last != "" && !a.created.Equal(b.created) {
		if b.created.After(a.created) {
			return b
		}
		return a
	}
	if b.before(a) {
		return b
	}
	return a
}

// states says how the pods are, a few of them.
func (s *scene) states(now time.Time) string {
	const most = 3
	pods := slices.SortedFunc(maps.Values(s.pods), func(a, b *pod) int { return strings.Compare(a.name, b.name) })
	var out []string
	for i, p := range pods {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(pods)-most))
			break
		}
		if now.Before(s.refused[p.uid]) {
			out = append(out, p.name+" is out of the relay's reach")
			continue
		}
		out = append(out, p.state())
	}
	return strings.Join(out, ", ")
}
