package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Agent serves the pods of one node. Make one with New.
type Agent struct {
	cfg      Config
	instance string
	started  time.Time

	joiner  forward.Joiner
	metrics *metrics
	control *rpc.Listener // questions of relays

	running  atomic.Int64 // streams
	idle     chan struct{}
	tunnels  atomic.Int64 // registered ones
	leaving  chan struct{}
	podsMu   sync.Mutex
	podsSeen chan struct{} // closed and replaced when the pods changed
}

// New makes an agent that does nothing yet.
func New(cfg Config) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	a := &Agent{
		cfg:      cfg,
		instance: hex.EncodeToString(id[:]),
		started:  time.Now(),
		control:  rpc.NewListener(),
		idle:     make(chan struct{}, 1),
		leaving:  make(chan struct{}),
		podsSeen: make(chan struct{}),
	}
	a.metrics = newMetrics(a)
	return a, nil
}

// Ready tells whether at least one relay can send streams here.
func (a *Agent) Ready() bool { return a.tunnels.Load() > 0 }

// Run keeps tunnels to all relays until ctx ends. Then it says that it goes
// away, lets running streams finish within the drain timeout, and returns when
// everything it started has ended. It can be called once.
func (a *Agent) Run(ctx context.Context) error {
	hard, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var all sync.WaitGroup
	defer all.Wait()
	defer stop(&stream.Error{Code: stream.GoingAway, Text: "agent is shutting down"})

	g := rpc.NewServer()
	controlv1.RegisterNodeServer(g, &nodeService{agent: a})
	all.Go(func() { _ = g.Serve(a.control) })
	defer g.Stop()

	all.Go(func() { a.watchPods(hard) })
	pods := make(chan error, 1)
	all.Go(func() { pods <- a.cfg.Pods.Run(hard) })
	for _, relay := range a.cfg.Relays {
		all.Go(func() { a.keep(ctx, hard, relay) })
	}
	select {
	case <-ctx.Done():
	case err := <-pods:
		return fmt.Errorf("watch pods: %w", err)
	}
	close(a.leaving)
	a.drain()
	return nil
}

// drain waits until no stream runs, at most for the drain timeout.
func (a *Agent) drain() {
	limit := time.NewTimer(a.cfg.DrainTimeout)
	defer limit.Stop()
	for a.running.Load() > 0 {
		select {
		case <-a.idle:
		case <-limit.C:
			return
		}
	}
}

// watchPods wakes every reporter when the pods changed.
func (a *Agent) watchPods(ctx context.Context) {
	for {
		select {
		case <-a.cfg.Pods.Changed():
			a.podsMu.Lock()
			close(a.podsSeen)
			a.podsSeen = make(chan struct{})
			a.podsMu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// podsChanged returns a channel that is closed at the next change.
func (a *Agent) podsChanged() <-chan struct{} {
	a.podsMu.Lock()
	defer a.podsMu.Unlock()
	return a.podsSeen
}
