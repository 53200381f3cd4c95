package sandbox

import (
	"cmp"
	"slices"
	"sync"
)

// record is a sandbox as the runtime describes it.
type record struct {
	id  string // of the sandbox's container
	pod Pod
	err error // why the pod cannot be reached; pod.UID is valid all the same
}

// taskState is what is known of the process that keeps a sandbox alive.
type taskState uint8

const (
	taskUnknown taskState = iota
	taskRunning
	taskGone
)

type entry struct {
	record
	task taskState
}

// index holds sandboxes by id and by the UID of their pod. A pod may have several:
// the runtime keeps dead ones for a while after a new one was made.
type index struct {
	limit int

	mu    sync.RWMutex
	byID  map[string]*entry
	byUID map[string][]*entry
	over  bool // some sandbox was left out
}

func newIndex(limit int) *index {
	return &index{limit: limit, byID: map[string]*entry{}, byUID: map[string][]*entry{}}
}

// put adds a sandbox or replaces what was known of it, but for its task.
func (x *index) put(r record) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.byID[r.id]
	if old == nil && len(x.byID) >= x.limit {
		x.over = true
		return
	}
	e := &entry{record: r}
	if old != nil {
		e.task = old.task
		x.unlink(old)
	}
	x.byID[r.id] = e
	x.byUID[r.pod.UID] = append(x.byUID[r.pod.UID], e)
}

// unlink takes e out of both maps.
func (x *index) unlink(e *entry) {
	delete(x.byID, e.id)
	rest := slices.DeleteFunc(x.byUID[e.pod.UID], func(other *entry) bool { return other == e })
	if len(rest) == 0 {
		delete(x.byUID, e.pod.UID)
	} else {
		x.byUID[e.pod.UID] = rest
	}
}

// remove forgets a sandbox and says whether it was there.
func (x *index) remove(id string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.byID[id]
	if e == nil {
		return false
	}
	x.unlink(e)
	return true
}

// mark sets the state of a sandbox's task and says whether that is news of a
// sandbox that is known.
func (x *index) mark(id string, task taskState) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.byID[id]
	if e == nil || e.task == task {
		return false
	}
	e.task = task
	return true
}

// become takes the content of another index, which must not be used afterwards.
func (x *index) become(other *index) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID, x.byUID, x.over = other.byID, other.byUID, other.over
}

// contested returns the sandboxes that share a pod with others; uid empty: of all
// pods.
func (x *index) contested(uid string) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if uid != "" {
		return rivals(nil, x.byUID[uid])
	}
	var ids []string
	for _, entries := range x.byUID {
		ids = rivals(ids, entries)
	}
	return ids
}

// rivals appends the ids of entries if there are several.
func rivals(ids []string, entries []*entry) []string {
	if len(entries) > 1 {
		for _, e := range entries {
			ids = append(ids, e.id)
		}
	}
	return ids
}

// best returns the newest sandbox, but one whose task is gone only if there is no
// other.
func best(entries []*entry) *entry {
	return slices.MaxFunc(entries, func(a, b *entry) int {
		return cmp.Or(
			cmp.Compare(alive(a), alive(b)),
			a.pod.Created.Compare(b.pod.Created),
			cmp.Compare(a.id, b.id),
		)
	})
}

func alive(e *entry) int {
	if e.task == taskGone {
		return 0
	}
	return 1
}

// lookup finds the sandbox that a pod has now.
func (x *index) lookup(uid string) (record, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	entries := x.byUID[uid]
	if len(entries) == 0 {
		return record{}, false
	}
	return best(entries).record, true
}

// list returns the pods that can be reached, in the order of namespace and name.
func (x *index) list() []Pod {
	x.mu.RLock()
	pods := make([]Pod, 0, len(x.byUID))
	for _, entries := range x.byUID {
		if e := best(entries); e.err == nil {
			pods = append(pods, e.pod)
		}
	}
	x.mu.RUnlock()
	sortPods(pods)
	return pods
}

func sortPods(pods []Pod) {
	slices.SortFunc(pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
}

// complete says whether every sandbox found its place.
func (x *index) complete() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return !x.over
}
