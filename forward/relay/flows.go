package relay

import (
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// flow is one forwarded stream as the relay sees it.
type flow struct {
	id      stream.ID
	user    string
	from    string // the client's address
	node    string
	target  Target
	started time.Time

	up, down stream.Scanner
}

// bytes returns the payload carried so far, client to pod and back.
func (f *flow) bytes() (up, down int64) { return f.up.Payload(), f.down.Payload() }

// flows are the streams that run now. The zero value is ready.
type flows struct {
	mu   sync.Mutex
	all  map[*flow]struct{}
	none chan struct{} // closed when all is empty; nil if nobody asked
}

func (fs *flows) add(f *flow) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.all == nil {
		fs.all = make(map[*flow]struct{})
	}
	fs.all[f] = struct{}{}
}

func (fs *flows) remove(f *flow) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.all, f)
	if len(fs.all) == 0 && fs.none != nil {
		close(fs.none)
		fs.none = nil
	}
}

func (fs *flows) list() []*flow {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	out := make([]*flow, 0, len(fs.all))
	for f := range fs.all {
		out = append(out, f)
	}
	return out
}

func (fs *flows) len() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return len(fs.all)
}

// idle returns a channel that is closed when no stream runs.
func (fs *flows) idle() <-chan struct{} {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.none == nil {
		fs.none = make(chan struct{})
	}
	c := fs.none
	if len(fs.all) == 0 {
		close(c)
		fs.none = nil
	}
	return c
}
