package relay

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// fewTallies is below which the tallies of users or nodes are not worth a look for
// those that nobody needs any more.
const fewTallies = 1024

// quotas count what Limits bound. Users and nodes are those who proved who they
// are, so nobody makes up names; a tally lives as long as it counts something, and
// until its rate has recovered.
type quotas struct {
	bound [limitsInAll]int

	mu    sync.Mutex
	all   tally
	users tallies
	nodes tallies
	busy  map[string]int // requests by credential
}

// tally is what one user or one node has.
type tally struct {
	streams, sessions int
	opens             *rate.Limiter // nil: none
}

// tallies are those of all users, or of all nodes.
type tallies struct {
	perSecond int // of a limiter; less than 1: none
	of        map[string]*tally
	sweep     int // how many there are when those of no use are looked for
}

func newQuotas(l *Limits) *quotas {
	b := l.bounds()
	return &quotas{
		bound: b, all: tally{opens: limiter(b[limitOpens])}, busy: make(map[string]int),
		users: tallies{perSecond: b[limitUserOpens], of: make(map[string]*tally), sweep: fewTallies},
		nodes: tallies{perSecond: b[limitNodeOpens], of: make(map[string]*tally), sweep: fewTallies},
	}
}

func limiter(perSecond int) *rate.Limiter {
	if perSecond < 1 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), 2*perSecond)
}

func (ts *tallies) get(name string) *tally {
	t := ts.of[name]
	if t == nil {
		if len(ts.of) >= ts.sweep {
			for other, t := range ts.of {
				if t.idle() {
					delete(ts.of, other)
				}
			}
			ts.sweep = max(2*len(ts.of), fewTallies)
		}
		t = &tally{opens: limiter(ts.perSecond)}
		ts.of[name] = t
	}
	return t
}

// idle tells whether a new tally would be as good.
func (t *tally) idle() bool {
	return t.streams == 0 && t.sessions == 0 && (t.opens == nil || t.opens.Tokens() >= float64(t.opens.Burst()))
}

// over tells whether n is as much as a limit allows.
func (q *quotas) over(which, n int) bool { return q.bound[which] >= 0 && n >= q.bound[which] }

// begin counts a stream of a user in, or refuses it. A try counts as one.
func (q *quotas) begin(user string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	u, now := q.users.get(user), time.Now()
	switch {
	case !u.opens1(now):
		return exceeded(limitUserOpens, q.bound[limitUserOpens], user)
	case q.over(limitUserStreams, u.streams):
		return exceeded(limitUserStreams, q.bound[limitUserStreams], user)
	case !q.all.opens1(now):
		return exceeded(limitOpens, q.bound[limitOpens], "")
	case q.over(limitStreams, q.all.streams):
		return exceeded(limitStreams, q.bound[limitStreams], "")
	}
	u.streams++
	q.all.streams++
	return nil
}

// opens1 takes one from the rate of opening.
func (t *tally) opens1(now time.Time) bool { return t.opens == nil || t.opens.AllowN(now, 1) }

// end counts a stream out, also of the node that it went to, if it has got so far.
func (q *quotas) end(user, node string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.users.get(user).streams--
	q.all.streams--
	if node != "" {
		q.nodes.get(node).streams--
	}
}

// reach counts a stream in for a node. Before it was one of another, unless that is
// empty.
func (q *quotas) reach(node, before string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.nodes.get(node)
	switch {
	case !n.opens1(time.Now()):
		return exceeded(limitNodeOpens, q.bound[limitNodeOpens], node)
	case node == before:
		return nil
	case q.over(limitNodeStreams, n.streams):
		return exceeded(limitNodeStreams, q.bound[limitNodeStreams], node)
	}
	n.streams++
	if before != "" {
		q.nodes.get(before).streams--
	}
	return nil
}

// enter counts a session of a user or a node in.
func (q *quotas) enter(who Identity) error {
	ts, which := q.sessionsOf(who)
	if ts == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	t := ts.get(who.Name)
	if q.over(which, t.sessions) {
		return exceeded(which, q.bound[which], who.Name)
	}
	t.sessions++
	return nil
}

// leave counts it out.
func (q *quotas) leave(who Identity) {
	ts, _ := q.sessionsOf(who)
	if ts == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	ts.get(who.Name).sessions--
}

// sessionsOf returns nil for joiners, who all have one name.
func (q *quotas) sessionsOf(who Identity) (ts *tallies, which int) {
	switch who.Role {
	case RoleUser:
		return &q.users, limitUserSessions
	case RoleNode:
		return &q.nodes, limitNodeSessions
	}
	return nil, 0
}

// request counts a request of a credential in; done counts it out.
func (q *quotas) request(credential string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over(limitUserRequests, q.busy[credential]) {
		return exceeded(limitUserRequests, q.bound[limitUserRequests], "")
	}
	q.busy[credential]++
	return nil
}

func (q *quotas) done(credential string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.busy[credential]--; q.busy[credential] == 0 {
		delete(q.busy, credential)
	}
}
