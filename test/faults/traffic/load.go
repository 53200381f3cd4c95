package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// Flow is a way from a user to a pod.
type Flow struct {
	// Name says which in reports. Each flow has its own.
	Name string
	// Dial connects where a user's program would. Required.
	Dial func(context.Context) (*net.TCPConn, error)
}

// Config says what a Load does.
type Config struct {
	// Flows are the ways to load.
	Flows []Flow
	// Workers is how many connections each flow has at a time; 0 means 4, negative
	// none.
	Workers int
	// Idle is how many connections more each flow has that mostly do nothing; 0
	// means 2, negative none.
	Idle int
	// Limit is about how many bytes a connection carries each way at most; 0 means
	// 1 MiB.
	Limit int64
	// Pause is the longest time between two connections of a worker, half of it on
	// average; 0 means 150 ms.
	Pause time.Duration
	// Seed makes the same connections again.
	Seed uint64
}

// Totals count connections and bytes that came through, both ways together.
type Totals struct {
	// Begun is the sum of the other three once everything has ended.
	Begun, Clean, Cut, Refused int64
	// Bytes were received and compared.
	Bytes int64
}

// Load keeps connections coming until Stop. All methods may be called from any
// goroutine.
type Load struct {
	cfg    Config
	ctx    context.Context //nolint:containedctx // the life of the load
	cancel context.CancelFunc
	all    sync.WaitGroup

	mu        sync.Mutex
	changed   chan struct{} // closed and replaced when a connection is over
	quiet     chan struct{} // closed while quiet
	loud      chan struct{} // closed while not quiet
	isQuiet   bool
	nextID    uint64
	flows     []*flow
	calls     map[uint64]*call    // those whose pod's end may still come
	seen      map[uint64]struct{} // those whose pod's end has come
	farConns  map[*net.TCPConn]*farEnd
	listeners []net.Listener
	totals    Totals
	problems  []error
}

type flow struct {
	Flow
	name   string
	faults []*Disturbance // those in force
	live   map[*call]struct{}
}

// maxProblems bounds what is kept: one fault in the product may break everything.
const maxProblems = 50

// Start begins the load. The caller calls Stop.
func Start(cfg Config) *Load {
	if cfg.Workers == 0 {
		cfg.Workers = 4
	}
	if cfg.Idle == 0 {
		cfg.Idle = 2
	}
	if cfg.Limit <= 0 {
		cfg.Limit = 1 << 20
	}
	if cfg.Pause <= 0 {
		cfg.Pause = 150 * time.Millisecond
	}
	l := &Load{
		cfg: cfg, changed: make(chan struct{}), quiet: make(chan struct{}), loud: make(chan struct{}),
		nextID: mix(cfg.Seed) &^ 0xffffffff,
		calls:  map[uint64]*call{}, seen: map[uint64]struct{}{}, farConns: map[*net.TCPConn]*farEnd{},
	}
	close(l.loud)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	for i, f := range cfg.Flows {
		fl := &flow{Flow: f, name: f.Name, live: map[*call]struct{}{}}
		l.flows = append(l.flows, fl)
		for w := range max(cfg.Workers, 0) + max(cfg.Idle, 0) {
			kinds := mixture
			if w >= cfg.Workers {
				kinds = []Kind{Idle}
			}
			rng := rand.New(rand.NewPCG(cfg.Seed, uint64(i*1000+w)))
			l.all.Go(func() { l.work(fl, kinds, rng) })
		}
	}
	return l
}

// work makes one connection after the other.
func (l *Load) work(f *flow, kinds []Kind, rng *rand.Rand) {
	for {
		l.mu.Lock()
		loud := l.loud
		l.mu.Unlock()
		select {
		case <-loud:
		case <-l.ctx.Done():
			return
		}
		kind := kinds[rng.IntN(len(kinds))]
		l.call(l.ctx, f, newPlan(kind, rng, l.cfg.Limit))
		select {
		case <-time.After(time.Duration(rng.Int64N(int64(l.cfg.Pause)))):
		case <-l.ctx.Done():
			return
		}
	}
}

// quieted returns the channel that is closed while the load is quiet.
func (l *Load) quieted() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.quiet
}

// call makes one connection and returns when the user's end is over. The end of
// ctx resets it.
func (l *Load) call(ctx context.Context, f *flow, p plan) *call {
	c := l.begin(f, p)
	conn, err := f.Dial(ctx)
	if err != nil {
		c.near.note(func() { c.near.end, c.near.readErr = broken, err })
	} else {
		l.use(ctx, c, conn)
	}
	l.mu.Lock()
	c.dialErr, c.nearOver = err, true
	l.mu.Unlock()
	l.done(c)
	return c
}

// use is the user's end of a connection.
func (l *Load) use(ctx context.Context, c *call, conn *net.TCPConn) {
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		c.near.kill(conn)
	})
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], c.id)
	if _, err := conn.Write(id[:]); err != nil {
		c.near.note(func() { c.near.writeErr = err })
	}
	c.near.run(conn, l.quieted)
	if !stop() {
		<-killed
	}
}

func (l *Load) begin(f *flow, p plan) *call {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nextID++
	id := l.nextID
	up, down := mix(id)<<20, mix(^id)<<20
	c := &call{
		id: id, flow: f, kind: p.kind, began: time.Now(),
		near: newSide(p.near, up, down), far: newSide(p.far, down, up),
	}
	l.calls[id] = c
	f.live[c] = struct{}{}
	l.totals.Begun++
	for _, d := range f.faults {
		c.excuse(d)
	}
	return c
}

// done judges a connection of which no end is at work any more.
func (l *Load) done(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.over() {
		return
	}
	delete(c.flow.live, c)
	result, err := c.judge()
	if l.ctx.Err() != nil {
		result = clean // Stop breaks off what there is
	}
	if err == nil && result != clean && !c.excused && !c.near.aborted {
		err = fmt.Errorf("%s: broken off, and no fault was in force", c)
	}
	l.problem(err)
	l.count(c, result)
	close(l.changed)
	l.changed = make(chan struct{})
}

// count adds a connection to the totals; one whose pod's end came late is counted
// already, but for its bytes.
func (l *Load) count(c *call, result outcome) {
	l.totals.Bytes += c.far.got
	if c.judged {
		return
	}
	c.judged = true
	l.totals.Bytes += c.near.got
	switch result {
	case clean:
		l.totals.Clean++
	case cut:
		l.totals.Cut++
	case refused:
		l.totals.Refused++
	}
	if c.blame != nil {
		c.blame.count(c, result)
	}
}

func (l *Load) complain(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problem(err)
}

func (l *Load) problem(err error) {
	if err != nil && len(l.problems) < maxProblems && l.ctx.Err() == nil {
		l.problems = append(l.problems, err)
	}
}

// Totals returns the counts so far.
func (l *Load) Totals() Totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.totals
}

// Problems returns what was wrong since the last call: nothing, if all is well.
func (l *Load) Problems() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := errors.Join(l.problems...)
	l.problems = nil
	return err
}

// Stop breaks off everything and returns when nothing is at work.
func (l *Load) Stop() {
	l.cancel()
	l.mu.Lock()
	for _, ln := range l.listeners {
		ln.Close()
	}
	for conn := range l.farConns {
		conn.Close()
	}
	l.mu.Unlock()
	l.all.Wait()
}

// find returns the flow of that name; an unknown one is a mistake in the test.
func (l *Load) find(name string) *flow {
	i := slices.IndexFunc(l.flows, func(f *flow) bool { return f.name == name })
	if i < 0 {
		panic("load has no flow " + name)
	}
	return l.flows[i]
}
