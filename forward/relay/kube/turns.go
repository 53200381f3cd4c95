package kube

import (
	"container/list"
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// maxTurns bounds who waits for a turn at once.
const maxTurns = 1024

// turns let strangers ask at a rate that all of them share. While more come than
// that, each source has its line and the lines take turns: a flood from one address
// makes its own line longer, and who comes from another is next.
type turns struct {
	limit *rate.Limiter

	mu      sync.Mutex
	lines   map[relay.Source]*list.Element // of *line, none of them empty
	order   list.List                      // the line whose turn it is first
	waiting int
	coming  bool // a turn is on its way
}

// line is who waits from one source, the longest waiting first.
type line struct {
	from    relay.Source
	waiters []*waiter
}

// waiter is one question that waits.
type waiter struct {
	done    chan struct{} // closed when it is over
	granted bool          // set before
}

// waiting waits for a turn of some kind, or refuses with a text.
type waiting func(ctx context.Context, text string) error

func newTurns(perSecond, burst int) *turns {
	return &turns{limit: rate.NewLimiter(rate.Limit(perSecond), burst), lines: make(map[relay.Source]*list.Element)}
}

// wait waits until it is the turn of ctx's source, at most for patience. What is
// over is told with text.
func (t *turns) wait(ctx context.Context, text string) error {
	t.mu.Lock()
	if t.waiting == 0 && t.limit.Allow() {
		t.mu.Unlock()
		return nil
	}
	w := t.join(relay.SourceOf(ctx))
	t.mu.Unlock()
	crowded := &stream.Error{Code: stream.Overloaded, Text: text}
	if w == nil {
		return crowded
	}
	soon := time.NewTimer(patience)
	defer soon.Stop()
	select {
	case <-w.done:
	case <-soon.C:
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case w.granted:
		return nil
	case ctx.Err() != nil:
		t.leave(relay.SourceOf(ctx), w)
		return ctx.Err()
	}
	t.leave(relay.SourceOf(ctx), w)
	return crowded
}

// join puts a new waiter at the end of its line. If too many wait it takes the place
// of the last one of the longest line, or is nil if it would be there itself.
func (t *turns) join(from relay.Source) *waiter {
	if t.waiting >= maxTurns && !t.makeRoom(from) {
		return nil
	}
	w := &waiter{done: make(chan struct{})}
	e := t.lines[from]
	if e == nil {
		e = t.order.PushBack(&line{from: from})
		t.lines[from] = e
	}
	l := e.Value.(*line)
	l.waiters = append(l.waiters, w)
	t.waiting++
	if !t.coming {
		t.schedule()
	}
	return w
}

func (t *turns) makeRoom(from relay.Source) bool {
	var longest *line
	for e := t.order.Front(); e != nil; e = e.Next() {
		if l := e.Value.(*line); longest == nil || len(l.waiters) > len(longest.waiters) {
			longest = l
		}
	}
	own := 0
	if e := t.lines[from]; e != nil {
		own = len(e.Value.(*line).waiters)
	}
	if own+1 >= len(longest.waiters) {
		return false
	}
	last := longest.waiters[len(longest.waiters)-1]
	t.leave(longest.from, last)
	close(last.done)
	return true
}

// leave takes a waiter out of its line, if it is there.
func (t *turns) leave(from relay.Source, w *waiter) {
	e := t.lines[from]
	if e == nil {
		return
	}
	l := e.Value.(*line)
	for i, other := range l.waiters {
		if other != w {
			continue
		}
		l.waiters = append(l.waiters[:i], l.waiters[i+1:]...)
		t.waiting--
		if len(l.waiters) == 0 {
			t.order.Remove(e)
			delete(t.lines, from)
		}
		return
	}
}

// schedule has the next turn given when the rate allows it, and so on while somebody
// waits.
func (t *turns) schedule() {
	t.coming = true
	time.AfterFunc(t.limit.Reserve().Delay(), func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.coming = false
		e := t.order.Front()
		if e == nil {
			return
		}
		l := e.Value.(*line)
		w := l.waiters[0]
		t.order.MoveToBack(e)
		t.leave(l.from, w)
		w.granted = true
		close(w.done)
		if t.waiting > 0 {
			t.schedule()
		}
	})
}
