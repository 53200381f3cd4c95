package sandbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/defaults"
)

// How long one question to containerd may take, and when everything is listed
// again. The second list comes soon: containerd does not say when a subscription
// has begun, so that a pod made just then may be in neither the first list nor the
// events. While a pod has more than one sandbox the tasks of these are asked after
// all the time: the event of a task's end comes from its shim, which may itself end
// before it has sent it.
const (
	callTimeout   = 10 * time.Second
	settleTimeout = 2 * time.Second // for all tasks that have to be asked after
	secondList    = time.Second
	doubtTime     = time.Second
	defaultResync = 5 * time.Minute
	maxAnswer     = 64 // sandboxes of one pod
)

// ContainerdConfig says which containerd to follow. Its zero value is that of a
// usual node.
type ContainerdConfig struct {
	// Socket is the path of its socket. Empty means
	// /run/containerd/containerd.sock.
	Socket string
	// Namespace is the containerd namespace that has the pods. Empty means
	// "k8s.io".
	Namespace string
	// MaxPods is how many sandboxes, dead ones too, the index holds; further ones
	// are not listed, and asked for one by one. 0 means 4096.
	MaxPods int
	// NetNSDir is the directory in which this process sees the network namespaces
	// that containerd keeps in /run/netns, or /var/run/netns as it calls it: in a
	// container that is where the node's directory is mounted. A namespace that
	// containerd keeps elsewhere is looked for where it says. Empty means that all
	// are.
	NetNSDir string
	// Resync is how often all pods are listed again, beside following the events.
	// 0 means 5 min.
	Resync time.Duration
}

// Containerd finds pods by following a containerd. Make one with NewContainerd.
// While containerd is away the last that was known is still served. Safe for
// concurrent use.
type Containerd struct {
	cfg     ContainerdConfig
	index   *index
	gate    *gate
	changed signal
	connect func() (runtime, error)

	mu      sync.Mutex
	runtime runtime // nil while there is no connection
	state   error   // why the index may be out of date
}

// NewContainerd returns a source that knows nothing until Run.
func NewContainerd(cfg ContainerdConfig) *Containerd {
	if cfg.Socket == "" {
		cfg.Socket = defaults.DefaultAddress
	}
	if cfg.Namespace == "" {
		cfg.Namespace = "k8s.io"
	}
	if cfg.MaxPods <= 0 {
		cfg.MaxPods = defaultMaxPods
	}
	if cfg.Resync <= 0 {
		cfg.Resync = defaultResync
	}
	return &Containerd{
		cfg: cfg, index: newIndex(cfg.MaxPods), gate: newGate(), changed: make(signal, 1),
		connect: func() (runtime, error) { return dialContainerd(cfg) },
		state:   errNotListed,
	}
}

// Run follows containerd until ctx ends, and returns the context's error. It
// connects again, for ever, when containerd goes away. Call it once.
func (c *Containerd) Run(ctx context.Context) error {
	var retry backoff
	for {
		began := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.setState(fmt.Errorf("follow containerd at %s: %w", c.cfg.Socket, err))
		if time.Since(began) > lastRetry {
			retry.reset()
		}
		select {
		case <-time.After(retry.next()):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// session is one connection to containerd: subscribe, list, follow. It never
// returns nil.
func (c *Containerd) session(ctx context.Context) error {
	rt, err := c.connect()
	if err != nil {
		return err
	}
	var following sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer following.Wait()
	defer rt.close() // an error tells nothing that is of use any more
	defer c.setRuntime(nil)
	defer cancel()
	next, err := rt.subscribe(ctx)
	if err != nil {
		return err
	}
	if err := c.relist(ctx, rt); err != nil {
		return err
	}
	c.setRuntime(rt)
	events, ended := make(chan event), make(chan error, 1)
	following.Go(func() { ended <- pump(ctx, next, events) })
	return c.follow(ctx, rt, events, ended)
}

// follow keeps the index fresh until the events end. It never returns nil.
func (c *Containerd) follow(ctx context.Context, rt runtime, events <-chan event, ended <-chan error) (err error) {
	again := time.NewTimer(min(secondList, c.cfg.Resync))
	defer again.Stop()
	var doubt <-chan time.Time
	for err == nil {
		if doubt == nil && len(c.index.contested("")) > 0 {
			doubt = time.After(doubtTime)
		}
		select {
		case e := <-events:
			err = c.apply(ctx, rt, e)
		case <-again.C:
			err = c.relist(ctx, rt)
			again.Reset(c.cfg.Resync)
		case <-doubt:
			doubt = nil
			if settle(ctx, rt, c.index, "") {
				c.changed.raise()
			}
		case err = <-ended:
		}
	}
	return err
}

// pump hands events on until there are no more; it never returns nil.
func pump(ctx context.Context, next func() (event, error), events chan<- event) error {
	for {
		e, err := next()
		if err != nil {
			return err
		}
		select {
		case events <- e:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// relist replaces the index by what containerd has now.
func (c *Containerd) relist(ctx context.Context, rt runtime) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	fresh := newIndex(c.cfg.MaxPods)
	if err := rt.list(ctx, "", fresh.put); err != nil {
		return err
	}
	settle(ctx, rt, fresh, "")
	c.index.become(fresh)
	c.setState(nil)
	c.changed.raise() // whoever hears it may ask Ready
	return nil
}

// apply follows one event.
func (c *Containerd) apply(ctx context.Context, rt runtime, e event) error {
	news := false
	switch e.kind {
	case sandboxRemoved:
		news = c.index.remove(e.id)
	case taskStarted:
		news = c.index.mark(e.id, taskRunning)
	case taskExited:
		news = c.index.mark(e.id, taskGone)
	case containerChanged:
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		r, is, err := rt.get(ctx, e.id)
		if err != nil {
			return err
		}
		if news = is; is {
			c.index.put(r)
			settle(ctx, rt, c.index, r.pod.UID)
		}
	}
	if news { // most events are about the containers inside pods
		c.changed.raise()
	}
	return nil
}

// settle asks which of several sandboxes of one pod are alive (uid empty: of all
// pods), and says whether there is news. What is not known when its time is over
// stays open.
func settle(ctx context.Context, rt runtime, x *index, uid string) (news bool) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for _, id := range x.contested(uid) {
		task := rt.task(ctx, id)
		if ctx.Err() != nil {
			break
		}
		if task != taskUnknown && x.mark(id, task) {
			news = true
		}
	}
	return news
}

// Lookup finds the pod with this UID. One that is not in the index is asked of
// containerd, at a bounded rate and with a deadline. Errors: ErrNotFound, ErrBusy,
// ErrUnavailable, the context's error, or why the pod's namespace is not known.
func (c *Containerd) Lookup(ctx context.Context, uid string) (Pod, error) {
	r, found := c.index.lookup(uid)
	if !found {
		var err error
		if r, err = c.ask(ctx, uid); err != nil {
			return Pod{}, fmt.Errorf("look up pod %.*q: %w", maxUID, uid, err)
		}
	}
	if r.err != nil {
		return Pod{}, fmt.Errorf("look up pod %s: %w", uid, r.err)
	}
	return r.pod, nil
}

// ask asks containerd for a pod that the index does not have. The answer is not
// put into the index: a removal that was already followed could not take it out.
func (c *Containerd) ask(ctx context.Context, uid string) (record, error) {
	if !validUID(uid) {
		return record{}, ErrNotFound
	}
	leave, err := c.gate.enter(ctx)
	if err != nil {
		return record{}, err
	}
	defer leave()
	if r, found := c.index.lookup(uid); found {
		return r, nil // it came while waiting
	}
	c.mu.Lock()
	rt, state := c.runtime, c.state
	c.mu.Unlock()
	if rt == nil {
		return record{}, fmt.Errorf("%w: %w", ErrUnavailable, state)
	}
	asked, cancel := context.WithTimeout(ctx, missWait)
	defer cancel()
	answer := newIndex(maxAnswer)
	err = rt.list(asked, uid, answer.put)
	switch {
	case ctx.Err() != nil:
		return record{}, ctx.Err()
	case err != nil:
		return record{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	settle(asked, rt, answer, uid)
	r, found := answer.lookup(uid)
	if !found {
		return record{}, ErrNotFound
	}
	return r, nil
}

// List returns the pods of the index that can be reached, sorted by namespace and
// name.
func (c *Containerd) List() []Pod { return c.index.list() }

// Changed returns a channel that gets a value when List may have changed since
// the last one was taken. It is always the same channel, for one reader.
func (c *Containerd) Changed() <-chan struct{} { return c.changed }

// Ready returns nil if List is whole and up to date, or else why it may not be.
func (c *Containerd) Ready() error {
	c.mu.Lock()
	state := c.state
	c.mu.Unlock()
	if state == nil && !c.index.complete() {
		state = fmt.Errorf("follow containerd at %s: more than %d sandboxes", c.cfg.Socket, c.cfg.MaxPods)
	}
	return state
}

func (c *Containerd) setRuntime(rt runtime) {
	c.mu.Lock()
	c.runtime = rt
	c.mu.Unlock()
}

func (c *Containerd) setState(err error) {
	c.mu.Lock()
	c.state = err
	c.mu.Unlock()
}
