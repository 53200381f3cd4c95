package kube

import (
	"container/list"
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// patience bounds how long a question waits for its turn: short of the relay's
// limit for a handshake together with the question itself.
const patience = 3 * time.Second

// turn waits until l allows one more question. It tells at once who would wait
// too long, so that a crowd is spread by the back-off of those who come.
func turn(ctx context.Context, l *rate.Limiter, text string) error {
	soon, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := l.Wait(soon); err != nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		return &stream.Error{Code: stream.Overloaded, Text: text}
	}
	return nil
}

// shares bounds how much each caller asks, so that none takes the turns of
// others. The limits of callers that came last are kept.
type shares struct {
	each         rate.Limit
	burst, limit int

	mu   sync.Mutex
	of   map[[sha256.Size]byte]*list.Element // of *share
	used list.List
}

type share struct {
	key [sha256.Size]byte
	*rate.Limiter
	looks *rate.Limiter // of watches that found no room in the other
}

func newShares(each, burst, limit int) *shares {
	return &shares{each: rate.Limit(each), burst: burst, limit: limit, of: make(map[[sha256.Size]byte]*list.Element)}
}

// get returns the limit of a caller. known tells whether it has one already;
// otherwise it gets one only if it is to be made.
func (s *shares) get(key [sha256.Size]byte, create bool) (of *share, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.of[key]; e != nil {
		s.used.MoveToFront(e)
		return e.Value.(*share), true
	}
	if !create {
		return nil, false
	}
	one := &share{key, rate.NewLimiter(s.each, s.burst), rate.NewLimiter(max(s.each/10, 1), max(s.burst/10, 2))}
	s.of[key] = s.used.PushFront(one)
	for s.used.Len() > s.limit {
		last := s.used.Back()
		delete(s.of, last.Value.(*share).key)
		s.used.Remove(last)
	}
	return one, false
}

type lookKey struct{}

// look returns the context for a watch to ask with, or false if it is not its turn.
// It leaves half of the caller's share to his new streams; a caller who leaves
// nothing of it to the watch is looked at out of turn, at a rate of its own: being
// busy must not keep a session alive whose right is gone.
func (k *Kube) look(ctx context.Context, who relay.Identity) (context.Context, bool) {
	c, err := credentialOf(who)
	if err != nil {
		return ctx, false
	}
	of, _ := k.shares.get(c.key, true)
	if of.Tokens() >= float64(k.cfg.CallerBurst)/2 {
		return ctx, true
	}
	return context.WithValue(ctx, lookKey{}, true), of.looks.AllowN(time.Now(), 2) // may he, and is it there
}

// outOfTurn tells whether a question does not wait for the caller's share. Its
// answer is then not shared with questions that do.
func outOfTurn(ctx context.Context) bool { return ctx.Value(lookKey{}) != nil }
