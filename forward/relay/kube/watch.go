package kube

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Watch looks from time to time whether a session that was let in may go on. over
// is closed when the pod is gone for good (none of its name was there for
// Config.WatchGrace, or none can follow) or when the caller may not forward to it any more; why then
// says so, as a *stream.Error. A pod that comes again under its name is no end,
// nor is a credential that is over: that stops new streams. While the API server
// cannot be asked nothing ends. The watch itself ends with ctx, which Close waits
// for.
func (k *Kube) Watch(ctx context.Context, who relay.Identity, t relay.Target) (over <-chan struct{}, why func() error) {
	w := &watch{kube: k, who: who, target: t, over: make(chan struct{})}
	k.watches.Go(func() { w.run(ctx) })
	return w.over, w.why
}

// watch is that of one session.
type watch struct {
	kube   *Kube
	who    relay.Identity
	target relay.Target
	over   chan struct{}
	gone   time.Time // since when the pod is missing; zero if it is there
	denied bool      // the last time too
	once   bool      // when the pod was seen last, its name was its own

	mu     sync.Mutex
	reason error
}

func (w *watch) why() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reason
}

func (w *watch) run(ctx context.Context) {
	// Still remembered from when the session was let in.
	if f, err := w.kube.find(ctx, w.who, w.target); err == nil {
		w.once = f.once
	}
	for {
		t := time.NewTimer(less(w.kube.cfg.WatchEvery, 5))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		if err := w.look(ctx); err != nil {
			w.mu.Lock()
			w.reason = err
			w.mu.Unlock()
			close(w.over)
			return
		}
	}
}

// look returns why the session is over, or nil.
func (w *watch) look(ctx context.Context) error {
	ctx, mine := w.kube.look(ctx, w.who)
	if !mine {
		return nil
	}
	err := w.kube.Authorize(ctx, w.who, w.target)
	if err == nil {
		var f found
		if f, err = w.kube.find(ctx, w.who, w.target); err == nil {
			w.once = f.once
		}
	}
	switch code := stream.CodeOf(err); {
	case code == stream.Forbidden || code == stream.Policy:
		// An API server that has just started may not know its rules yet.
		if w.denied {
			return err
		}
		w.denied = true
		return nil
	case err == nil || errors.Is(err, errWaits):
		w.gone, w.denied = time.Time{}, false
	case code == stream.PodNotFound || code == stream.NamespaceGone: // unknown, or ended
		w.denied = false
		if w.gone.IsZero() {
			w.gone = time.Now()
		}
		if w.once || time.Since(w.gone) >= w.kube.cfg.WatchGrace {
			return err
		}
	}
	return nil // also when nobody can tell
}
