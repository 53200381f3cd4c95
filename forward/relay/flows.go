package relay

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/relay/policy"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// flow is one forwarded stream as the relay sees it. What is neither a counter
// nor the place is set before it is added to flows and does not change any more.
type flow struct {
	id      stream.ID
	user    string
	owner   string // user as whoever knows him spells it
	trace   stream.Trace
	groups  []string
	from    string // the client's address
	door    string // the way in
	counted string // the node whose quota it is in; for the one who opens it
	target  Target
	started time.Time
	at      atomic.Pointer[Place]           // nil until the pod was found
	judged  atomic.Pointer[policy.Decision] // nil until the policy was asked
	via     atomic.Pointer[tunnel.Session]  // the agent's; nil until one was asked
	opened  atomic.Bool                     // the pod has accepted

	stopper  stopper
	up, down stream.Scanner // of a stream that is copied as it is
	live     forward.Live   // of one that is joined
}

// charge charges the caller with what one of the stream's ends holds unread.
func (f *flow) charge(st *tunnel.Stream) { st.Charge(f.user, f.stopper.crowds) }

// place returns where the pod is, as far as that is known.
func (f *flow) place() Place {
	if at := f.at.Load(); at != nil {
		return *at
	}
	return Place{}
}

// verdict returns what the policy said, empty if it has nothing to do with the stream.
func (f *flow) verdict() string {
	if d := f.judged.Load(); d != nil {
		return d.String()
	}
	return ""
}

// bytes returns the payload carried so far, client to pod and back.
func (f *flow) bytes() (up, down int64) {
	return f.up.Payload() + f.live.AtoB.Load(), f.down.Payload() + f.live.BtoA.Load()
}

// flows are the streams that run now. The zero value is ready.
type flows struct {
	mu      sync.Mutex
	open    crowd // begun and not ended, on their way to a node or beyond
	closed  bool
	running map[*flow]struct{}
}

// begin counts a stream in. It is false when no new ones are taken.
func (fs *flows) begin() bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return false
	}
	fs.open.enter()
	return true
}

func (fs *flows) end() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.open.leave()
}

// close lets no further stream begin.
func (fs *flows) close() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.closed = true
}

// add lists a stream that has reached its node, remove takes it off the list.
func (fs *flows) add(f *flow) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.running == nil {
		fs.running = make(map[*flow]struct{})
	}
	fs.running[f] = struct{}{}
}

func (fs *flows) remove(f *flow) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.running, f)
}

func (fs *flows) list() []*flow {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	out := make([]*flow, 0, len(fs.running))
	for f := range fs.running {
		out = append(out, f)
	}
	return out
}

func (fs *flows) len() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.open.n
}

// idle returns a channel that is closed once no stream is open.
func (fs *flows) idle() <-chan struct{} {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.open.gone()
}
