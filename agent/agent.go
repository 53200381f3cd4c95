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
)

const (
	// podsCheck is how often the source of pods is asked whether it is well.
	podsCheck = 10 * time.Second
	// firstPods is how long relays are not told of this agent because it knows no pods
	// yet.
	firstPods = 3 * time.Second
)

// Agent serves the pods of one node. Make one with New.
type Agent struct {
	cfg      Config
	instance string
	started  time.Time

	joiner  forward.Joiner
	metrics *metrics
	control *rpc.Listener // questions of relays

	running atomic.Int64  // streams
	apis    atomic.Int64  // those of them to the API server
	idle    chan struct{} // tells that running fell to none
	tunnels atomic.Int64  // registered ones
	keepers atomic.Int64  // addresses of relays that a tunnel is kept to
	spare   atomic.Int64  // how many more there may be
	fleet   *fleet
	seeking chan struct{} // held by who dials in search of another relay
	leaving chan struct{} // closed when Run's context has ended
	visits  visits

	podsMu     sync.Mutex
	podsSeen   chan struct{}   // closed and replaced when the pods changed
	podsListed map[string]bool // UIDs of those that were listed at the last look
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
		fleet:    newFleet(),
		seeking:  make(chan struct{}, 1),
		leaving:  make(chan struct{}),
		podsSeen: make(chan struct{}),
	}
	cfg.Tunnel.Memory.Beside = a.joiner.Held
	a.spare.Store(maxKeepers - int64(len(cfg.Relays)))
	a.metrics = newMetrics(a)
	return a, nil
}

// Ready tells whether at least one relay can send streams here and the pods are
// known. It is false once the agent leaves.
func (a *Agent) Ready() bool {
	return a.tunnels.Load() > 0 && a.cfg.Pods.Ready() == nil && !a.isLeaving()
}

// Run keeps tunnels to all relays until ctx ends. Then it says that it goes
// away, refuses new streams, lets running ones finish within the drain timeout,
// resets what is left, and returns when everything it started has ended. It can
// be called once. The error is why the pods could not be followed any more.
func (a *Agent) Run(ctx context.Context) error {
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	hard, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	var all sync.WaitGroup
	defer all.Wait()
	defer stop(leaving())

	g := rpc.NewServer()
	controlv1.RegisterNodeServer(g, &nodeService{agent: a})
	all.Go(func() { _ = g.Serve(a.control) })
	defer g.Stop()

	all.Go(func() { a.watchPods(hard) })
	pods := make(chan error, 1)
	all.Go(func() { pods <- a.cfg.Pods.Run(hard) })
	for _, relay := range a.cfg.Relays {
		all.Go(func() {
			a.awaitPods(ctx)
			a.follow(ctx, hard, relay)
		})
	}
	all.Go(func() { a.followTold(ctx, hard) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-pods:
		err = fmt.Errorf("follow pods: %w", err)
	}
	a.cfg.Log.Info("agent is going away", "streams", a.running.Load(), "drain_timeout", a.cfg.DrainTimeout.String())
	close(a.leaving)
	quit()
	a.drain()
	return err
}

// awaitPods waits until the pods are known, which takes a moment after the start: a
// relay that knew of this agent would send it streams that it has to refuse. It does
// not wait for long, for a relay should also learn why an agent is of no use.
func (a *Agent) awaitPods(ctx context.Context) {
	limit := time.NewTimer(firstPods)
	defer limit.Stop()
	for {
		changed := a.podsChanged()
		if a.cfg.Pods.Ready() == nil {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// drain waits until no stream runs, at most for the drain timeout.
func (a *Agent) drain() {
	limit := time.NewTimer(a.cfg.DrainTimeout)
	defer limit.Stop()
	for a.running.Load() > 0 {
		select {
		case <-a.idle:
		case <-limit.C:
			a.cfg.Log.Warn("streams are cut", "streams", a.running.Load(), "drain_timeout", a.cfg.DrainTimeout.String())
			return
		}
	}
}

// watchPods wakes every reporter when the pods changed, ends the streams in pods
// that are gone, and tells the log when pods cannot be followed: their source has
// none.
func (a *Agent) watchPods(ctx context.Context) {
	tick := time.NewTicker(podsCheck)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-a.cfg.Pods.Changed():
			a.podsMu.Lock()
			close(a.podsSeen)
			a.podsSeen = make(chan struct{})
			a.podsMu.Unlock()
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		a.leaveGonePods(ctx)
		said = a.tellPods(said)
	}
}

// tellPods logs the state of the pods if it is not the one said last, and returns
// it.
func (a *Agent) tellPods(said string) string {
	err := a.cfg.Pods.Ready()
	switch {
	case err == nil && said != "":
		a.cfg.Log.Info("pods are known again", "pods", len(a.cfg.Pods.List()))
		return ""
	case err != nil && err.Error() != said:
		a.cfg.Log.Warn("pods may be out of date", "err", err)
		return err.Error()
	}
	return said
}

// podsChanged returns a channel that is closed at the next change.
func (a *Agent) podsChanged() <-chan struct{} {
	a.podsMu.Lock()
	defer a.podsMu.Unlock()
	return a.podsSeen
}
