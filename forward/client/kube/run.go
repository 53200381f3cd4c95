package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// lookFloor is the shortest time between two looks.
	lookFloor = 500 * time.Millisecond
	// lookIdle is the time between looks while all is well, for who may not watch.
	lookIdle = 5 * time.Second
	// lookBackoff bounds the time between looks that fail.
	lookBackoff = 30 * time.Second
)

// Run keeps the Follower up to date until ctx ends. Where it may, it watches.
// Otherwise it looks every few seconds, and at a single pod only when somebody
// needs it; it looks twice a second while a connection waits.
func (f *Follower) Run(ctx context.Context) {
	var pause time.Duration // before the next look, while they fail
	blind := f.single
	since, fresh := f.first, true
	for ctx.Err() == nil {
		var err error
		if !fresh {
			since, err = f.look(ctx)
		}
		fresh = false
		if err == nil && !blind {
			err = f.watch(ctx, since)
			if errors.Is(err, errBlind) {
				blind, err = true, nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			pause = 0
		case pause == 0 && f.cfg.Trouble != nil:
			f.cfg.Trouble(err)
			fallthrough
		default:
			pause = min(max(2*pause, lookFloor), lookBackoff)
		}
		f.rest(ctx, pause, blind)
	}
}

// look asks once. An object that is gone has no pods.
func (f *Follower) look(ctx context.Context) (snapshot, error) {
	s, err := f.src.look(ctx)
	switch {
	case err == nil:
		f.take(s)
		return s, nil
	case ctx.Err() == nil:
		f.update(func(now time.Time) {
			f.lookErr = err
			if apierrors.IsNotFound(err) {
				f.scene.reset(nil, now)
			}
		})
		if apierrors.IsNotFound(err) && f.single {
			return snapshot{}, nil // it may come back under its name
		}
	}
	return snapshot{}, err
}

// watch takes in changes until the watch ends or somebody needs a fresh look: a
// connection to the API server that is silently dead must not be believed.
func (f *Follower) watch(ctx context.Context, since snapshot) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err = f.src.watch(ctx, since, func(p pod, gone bool) {
			f.update(func(now time.Time) {
				if gone {
					f.scene.drop(p.uid)
				} else {
					f.scene.put(p, now)
				}
			})
		})
	}()
	select {
	case <-ended:
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return nil // a list follows
		}
		return err
	case <-f.kick:
		cancel()
		<-ended
		return nil
	}
}

// rest waits before the next look.
func (f *Follower) rest(ctx context.Context, pause time.Duration, blind bool) {
	f.mu.Lock()
	wanted := f.waiting > 0
	f.mu.Unlock()
	if !sleepUntil(ctx, time.Now().Add(lookFloor), nil) || (wanted && pause == 0) || (!blind && pause == 0) {
		return
	}
	var due <-chan time.Time
	left := pause - lookFloor
	if pause == 0 {
		left = lookIdle - lookFloor
	}
	if pause > 0 || !f.single {
		t := time.NewTimer(left)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-due:
	case <-f.kick:
	case <-ctx.Done():
	}
}

// errOver means that the pod has ended and will not run again.
var errOver = errors.New("the pod has ended")

// notReadyError says why there is no pod to use. kubectl's words where it has
// some.
type notReadyError struct {
	text string
	over bool
	last error
}

func (e *notReadyError) Error() string { return e.text }

func (e *notReadyError) Unwrap() []error {
	var chain []error
	if e.over {
		chain = append(chain, errOver)
	}
	if e.last != nil {
		chain = append(chain, e.last)
	}
	return chain
}

// whyNot says why there is no pod to use. mu is held.
func (f *Follower) whyNot() error {
	if f.single {
		for _, p := range f.scene.pods {
			if p.running() {
				break
			}
			text := "unable to forward port because pod is not running. Current status=" + string(p.phase)
			return &notReadyError{text: text, over: p.over()}
		}
	}
	text := fmt.Sprintf("%s: no pod can be used now", f)
	switch states := f.scene.states(time.Now()); {
	case f.lookErr != nil && f.single && apierrors.IsNotFound(f.lookErr):
		text = f.lookErr.Error()
	case f.lookErr != nil:
		text += ": " + f.lookErr.Error()
	case states != "":
		text += ": " + states
	default:
		text += ": there is none"
	}
	return &notReadyError{text: text, last: f.lookErr}
}
