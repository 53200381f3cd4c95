package sandbox

import (
	"context"
	"errors"
	"sync"
	"time"
)

// fake is a containerd in memory. Its methods are those of a connection, of which
// there may be several one after the other.
type fake struct {
	mu      sync.Mutex
	records map[string]record
	tasks   map[string]taskState
	lists   int // of everything
	asked   int // for one pod
	dials   []time.Time
	down    bool
	events  chan event
	gone    chan struct{} // closed when the connection breaks
}

var errDown = errors.New("connection refused")

func newFake() *fake {
	return &fake{records: map[string]record{}, tasks: map[string]taskState{}}
}

func (f *fake) connect() (runtime, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials = append(f.dials, time.Now())
	if f.down {
		return nil, errDown
	}
	f.events, f.gone = make(chan event, 100), make(chan struct{})
	return f, nil
}

func (f *fake) subscribe(ctx context.Context) (func() (event, error), error) {
	events, gone := f.events, f.gone
	return func() (event, error) {
		select {
		case e := <-events:
			return e, nil
		case <-gone:
			return event{}, errDown
		case <-ctx.Done():
			return event{}, ctx.Err()
		}
	}, nil
}

func (f *fake) list(_ context.Context, uid string, put func(record)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return errDown
	}
	if uid == "" {
		f.lists++
	} else {
		f.asked++
	}
	for _, r := range f.records {
		if uid == "" || r.pod.UID == uid {
			put(r)
		}
	}
	return nil
}

func (f *fake) get(_ context.Context, id string) (record, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.records[id]
	return r, ok, nil
}

func (f *fake) task(_ context.Context, id string) taskState {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tasks[id]
}

func (f *fake) close() error { return nil }

// add makes a sandbox whose task runs, and says so unless silent.
func (f *fake) add(r record, silent bool) {
	f.mu.Lock()
	f.records[r.id] = r
	f.tasks[r.id] = taskRunning
	f.mu.Unlock()
	if !silent {
		f.events <- event{containerChanged, r.id}
		f.events <- event{taskStarted, r.id}
	}
}

func (f *fake) remove(id string) {
	f.mu.Lock()
	delete(f.records, id)
	f.mu.Unlock()
	f.events <- event{sandboxRemoved, id}
}

// change has change see the fake while nothing else does.
func (f *fake) change(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// breakDown ends the connection; up makes new ones possible.
func (f *fake) breakDown() {
	f.change(func() { f.down = true })
	close(f.gone)
}

func (f *fake) up() { f.change(func() { f.down = false }) }
