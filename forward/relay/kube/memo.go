package kube

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// memo remembers answers until they are too old, at most limit of them, the
// least recently used going first. Askers of the same question wait for one
// answer.
type memo[K comparable, V any] struct {
	limit int

	mu      sync.Mutex
	answers map[K]*list.Element // of *answer[K, V]
	used    list.List           // most recently used first
	asking  map[K]*question[V]

	hits, misses uint64
}

type answer[K comparable, V any] struct {
	key   K
	value V
	until time.Time
}

// question is one that somebody waits for.
type question[V any] struct {
	done    chan struct{}
	value   V
	err     error
	dropped bool // the asker's own context ended: that is no answer for others
	stale   bool // forgotten while it was asked
}

func newMemo[K comparable, V any](limit int) *memo[K, V] {
	return &memo[K, V]{limit: limit, answers: make(map[K]*list.Element), asking: make(map[K]*question[V])}
}

// get returns the answer that is remembered, or asks. ask says for how long its
// answer may be remembered; an error never is.
func (m *memo[K, V]) get(ctx context.Context, key K, ask func(context.Context) (V, time.Duration, error)) (V, error) {
	var none V
	for {
		if err := ctx.Err(); err != nil {
			return none, err
		}
		value, ok, q, mine := m.look(key)
		switch {
		case ok:
			return value, nil
		case mine:
			return m.ask(ctx, key, q, ask)
		}
		select {
		case <-q.done:
			if !q.dropped {
				return q.value, q.err
			}
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
}

// look returns what is remembered, or the question to wait for, which is the
// caller's own to ask if nobody else does.
func (m *memo[K, V]) look(key K) (value V, ok bool, q *question[V], mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.answers[key]; e != nil {
		a := e.Value.(*answer[K, V])
		if time.Now().Before(a.until) {
			m.used.MoveToFront(e)
			m.hits++
			return a.value, true, nil, false
		}
		m.remove(e)
	}
	if q := m.asking[key]; q != nil {
		m.hits++
		return value, false, q, false
	}
	q = &question[V]{done: make(chan struct{})}
	m.asking[key] = q
	m.misses++
	return value, false, q, true
}

func (m *memo[K, V]) ask(ctx context.Context, key K, q *question[V], ask func(context.Context) (V, time.Duration, error)) (V, error) {
	var keep time.Duration
	began := time.Now()
	q.dropped = true // also when ask panics
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.asking[key] == q {
			delete(m.asking, key)
		}
		if q.err == nil && keep > 0 && !q.stale && !q.dropped {
			m.put(key, q.value, began.Add(keep))
		}
		close(q.done)
	}()
	q.value, keep, q.err = ask(ctx)
	q.dropped = q.err != nil && ctx.Err() != nil
	return q.value, q.err
}

func (m *memo[K, V]) put(key K, value V, until time.Time) {
	if e := m.answers[key]; e != nil {
		m.remove(e)
	}
	m.answers[key] = m.used.PushFront(&answer[K, V]{key: key, value: value, until: until})
	for m.used.Len() > m.limit {
		m.remove(m.used.Back())
	}
}

func (m *memo[K, V]) remove(e *list.Element) {
	delete(m.answers, e.Value.(*answer[K, V]).key)
	m.used.Remove(e)
}

// forget drops the answers to those questions, also those on their way: whoever
// asks from now on gets one that is asked for from now on.
func (m *memo[K, V]) forget(those func(K) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := m.used.Front(); e != nil; {
		next := e.Next()
		if those(e.Value.(*answer[K, V]).key) {
			m.remove(e)
		}
		e = next
	}
	for key, q := range m.asking {
		if those(key) {
			q.stale = true
			delete(m.asking, key)
		}
	}
}

// drop forgets one answer.
func (m *memo[K, V]) drop(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.answers[key]; e != nil {
		m.remove(e)
	}
}

// lookups returns how often the answer was there or under way, and how often it
// had to be asked for.
func (m *memo[K, V]) lookups() (hits, misses uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hits, m.misses
}

func (m *memo[K, V]) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used.Len()
}
