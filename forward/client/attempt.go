package client

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// maxReplay bounds what an attempt keeps of the local program's words. Who says
// more than this before the pod has accepted waits for the answer.
const maxReplay = 64 << 10

// maxTries bounds the tries of one stream, whatever relay and route say, and maxLeft
// those that lead to a relay that goes away.
const maxTries, maxLeft = 20, 8

// attempt is a stream whose answer may still be to come. A refusal means that no
// pod has seen a byte of it, so where another place or another session may take
// it, it is opened again there with what was written so far. Once accepted, it
// is no more than the stream below.
type attempt struct {
	client *Client
	route  Route
	until  time.Time // no new try begins after it

	ctx  context.Context // ends new tries
	stop context.CancelFunc

	cur     atomic.Pointer[routed]
	aborted atomic.Pointer[error] // by Reset or Close
	settled chan struct{}         // closed when there is an answer that stays
	answer  error                 // that answer, before settled is closed

	asking  chan struct{}   // capacity 1: held by who waits for the answer
	left    int             // his: sessions to relays that went away
	renewed bool            // his: the session was changed for its credential
	tries   int             // his: those that were refused
	asked   map[string]bool // his: relays that have no way to the target
	via     *link           // his: where the next try goes; nil: where new streams go

	mu       sync.Mutex
	sent     []byte // payload written so far
	finished bool
}

// newAttempt takes the first try over, on which early was written.
func newAttempt(c *Client, route Route, first *routed, early []byte) *attempt {
	a := &attempt{
		client: c, route: route, until: time.Now().Add(c.cfg.WaitTimeout),
		settled: make(chan struct{}), asking: make(chan struct{}, 1),
		sent: bytes.Clone(early),
	}
	a.ctx, a.stop = context.WithCancel(context.Background())
	a.cur.Store(first)
	return a
}

// WaitReply waits for an answer that stays. Any number may wait.
func (a *attempt) WaitReply(ctx context.Context) error {
	if a.isSettled() {
		return a.answer
	}
	select {
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for !a.isSettled() {
		err := a.cur.Load().WaitReply(ctx)
		switch {
		case ctx.Err() != nil && err != nil:
			return err // the answer is still to come
		case err != nil && (a.beside(ctx, err) || a.worthIt(err)):
			if err = a.again(ctx, err); err == nil {
				continue
			}
		}
		a.settle(err)
	}
	return a.answer
}

func (a *attempt) isSettled() bool {
	select {
	case <-a.settled:
		return true
	default:
		return false
	}
}

func (a *attempt) settle(err error) {
	if cause := a.aborted.Load(); cause != nil {
		err = *cause
	}
	a.answer = err
	close(a.settled)
	a.stop()
	if a.mu.TryLock() { // else a writer is at it, and lets go of it himself
		a.sent = nil
		a.mu.Unlock()
	}
}

// worthIt tells whether a refused stream is worth another try.
func (a *attempt) worthIt(err error) bool {
	var refused *stream.Error
	a.tries++
	if !errors.As(err, &refused) || a.tries >= maxTries || a.ctx.Err() != nil || time.Now().After(a.until) {
		return false
	}
	switch refused.Code {
	case stream.GoingAway: // that session is out of use now, and the next relay may be on its way too
		a.left++
		return a.left <= maxLeft
	case stream.Unauthenticated:
		again := !a.renewed && a.client.expired(a.cur.Load().link)
		a.renewed = true
		return again
	}
	return a.route.Refused(a.cur.Load().target, refused)
}

// try opens the stream where the next try is to go.
func (a *attempt) try(ctx context.Context) (*routed, error) {
	via := a.via
	a.via = nil
	if via == nil {
		a.asked = nil
		return a.client.open(ctx, a.route, nil)
	}
	return a.client.openOn(ctx, via, a.cur.Load().target)
}

// again makes the next try in place of the one that was refused.
func (a *attempt) again(ctx context.Context, refusal error) error {
	_ = a.cur.Load().Reset(refusal) // lets a writer go that waits on it
	ctx, cancel := context.WithDeadline(ctx, a.until)
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)()
	next, err := a.try(ctx)
	if errors.Is(err, ErrOffline) {
		return refusal // the session that is there said so
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.cur.Store(next)
	if len(a.sent) > 0 {
		_, _ = next.Write(a.sent) // its answer says more than this error
	}
	if a.finished {
		_ = next.CloseWrite()
	}
	a.mu.Unlock()
	if cause := a.aborted.Load(); cause != nil {
		_ = next.Reset(*cause) // it came while the next try was made
	}
	return nil
}

func (a *attempt) Read(p []byte) (int, error) {
	if err := a.WaitReply(context.Background()); err != nil {
		return 0, err
	}
	return a.cur.Load().Read(p)
}

// ReadLazy is Read without a buffer while there is nothing to read.
func (a *attempt) ReadLazy(borrow func() []byte, release func()) (int, error) {
	return a.ReadPush(borrow, release, nil)
}

// ReadPush is ReadLazy that passes small answers on at once; see forward.PushReader.
func (a *attempt) ReadPush(borrow func() []byte, release func(), push func([]byte) int) (int, error) {
	if err := a.WaitReply(context.Background()); err != nil {
		return 0, err
	}
	return a.cur.Load().ReadPush(borrow, release, push)
}

func (a *attempt) Write(p []byte) (int, error) {
	return a.write(p, func(c *routed) (int, error) { return c.Write(p) })
}

// WriteFrame is Write of b[forward.Headroom:].
func (a *attempt) WriteFrame(b []byte) (int, error) {
	return a.write(b[forward.Headroom:], func(c *routed) (int, error) { return c.WriteFrame(b) })
}

func (a *attempt) write(payload []byte, do func(*routed) (int, error)) (int, error) {
	if !a.isSettled() {
		if cause := a.aborted.Load(); cause != nil {
			return 0, *cause
		}
		if a.early(payload, do) {
			return len(payload), nil
		}
		// Nobody else may be reading.
		if err := a.WaitReply(context.Background()); err != nil {
			return 0, err
		}
	}
	if a.answer != nil {
		return 0, a.answer
	}
	return do(a.cur.Load())
}

// early writes before the answer and remembers what. An error is no verdict: the
// answer will say what has become of the stream.
func (a *attempt) early(payload []byte, do func(*routed) (int, error)) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.isSettled() || len(a.sent)+len(payload) > maxReplay {
		return false
	}
	if a.sent == nil {
		a.sent = bytes.Clone(payload)
	} else {
		a.sent = append(a.sent, payload...)
	}
	_, _ = do(a.cur.Load())
	if a.isSettled() {
		a.sent = nil
	}
	return true
}

// CloseWrite finishes the writing direction.
func (a *attempt) CloseWrite() error {
	a.mu.Lock()
	if !a.isSettled() {
		a.finished = true
		_ = a.cur.Load().CloseWrite() // as with early
		a.mu.Unlock()
		return nil
	}
	a.mu.Unlock()
	if a.answer != nil {
		return a.answer
	}
	return a.cur.Load().CloseWrite()
}

// Reset aborts the stream and what is tried in its place.
func (a *attempt) Reset(cause error) error {
	reset := forward.ResetBy(cause)
	a.aborted.CompareAndSwap(nil, &reset)
	a.stop()
	return a.cur.Load().Reset(cause)
}

// Close ends the stream and what is tried in its place.
func (a *attempt) Close() error {
	closed := forward.ResetBy(nil)
	a.aborted.CompareAndSwap(nil, &closed)
	a.stop()
	return a.cur.Load().Close()
}
