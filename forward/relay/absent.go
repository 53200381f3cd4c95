package relay

import "time"

// absent remembers for a moment which nodes have lost their last tunnel, and which
// pods were reported over it: the agent is probably on its way back, and who asks for
// such a pod meanwhile is better off waiting than refused. It holds what the agents
// had reported and no more, and is under the lock of nodes.
type absent struct {
	grace time.Duration // 0 or less: nothing is remembered
	nodes map[string]loss
	pods  map[podName]time.Time // until when
	queue []loss                // oldest first; some were replaced since
}

// loss is what was lost with a tunnel.
type loss struct {
	node  string
	pods  []podName
	until time.Time
}

// note remembers a loss, in the place of an earlier one of the same node.
func (a *absent) note(node string, pods []podName) {
	a.forget()
	if a.grace <= 0 {
		return
	}
	if a.nodes == nil {
		a.nodes, a.pods = make(map[string]loss), make(map[podName]time.Time)
	}
	before := a.nodes[node]
	a.drop(before)
	if len(pods) == 0 { // lost before it had reported any
		pods = before.pods
	}
	l := loss{node: node, pods: pods, until: time.Now().Add(a.grace)}
	a.nodes[node] = l
	for _, name := range pods {
		a.pods[name] = l.until
	}
	l.pods = nil
	a.queue = append(a.queue, l)
}

// back drops what is remembered of a node: it has said what it has.
func (a *absent) back(node string) { a.drop(a.nodes[node]) }

// forget drops what is over.
func (a *absent) forget() {
	now := time.Now()
	for len(a.queue) > 0 && !now.Before(a.queue[0].until) {
		l := a.queue[0]
		a.queue = a.queue[1:]
		if current := a.nodes[l.node]; current.until.Equal(l.until) {
			a.drop(current)
		}
	}
}

func (a *absent) drop(l loss) {
	delete(a.nodes, l.node)
	for _, name := range l.pods {
		if a.pods[name].Equal(l.until) { // another node may have lost one of that name since
			delete(a.pods, name)
		}
	}
}

// node returns until when it is worth waiting for a node, zero if it is not.
func (a *absent) node(name string) time.Time {
	a.forget()
	return a.nodes[name].until
}

// pod returns until when it is worth waiting for a report of a pod.
func (a *absent) pod(name podName) time.Time {
	a.forget()
	return a.pods[name]
}
