package kube

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// counted answers with how often it was asked.
func counted(n *int, keep time.Duration, err error) func(context.Context) (int, time.Duration, error) {
	return func(context.Context) (int, time.Duration, error) {
		*n++
		return *n, keep, err
	}
}

func TestMemoRemembersForItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, n := newMemo[string, int](10), 0
		for _, step := range []struct {
			after time.Duration
			want  int
		}{{0, 1}, {9 * time.Second, 1}, {time.Second - 1, 1}, {1, 2}, {time.Hour, 3}} {
			time.Sleep(step.after)
			if got, err := m.get(t.Context(), "a", counted(&n, 10*time.Second, nil)); got != step.want || err != nil {
				t.Errorf("after %v more: %d, %v, want %d", step.after, got, err, step.want)
			}
		}
		if _, err := m.get(t.Context(), "b", counted(&n, time.Hour, errors.New("no"))); err == nil || m.len() != 1 {
			t.Errorf("an error was remembered: %v, %d answers", err, m.len())
		}
		if _, err := m.get(t.Context(), "c", counted(&n, 0, nil)); err != nil || m.len() != 1 {
			t.Errorf("an answer for the moment was remembered: %v, %d answers", err, m.len())
		}
	})
}

// The time an answer took belongs to its age: it may have been given at the start.
func TestMemoCountsFromTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, n := newMemo[string, int](10), 0
		slow := func(context.Context) (int, time.Duration, error) {
			time.Sleep(4 * time.Second)
			n++
			return n, 10 * time.Second, nil
		}
		_, _ = m.get(t.Context(), "a", slow)
		time.Sleep(6 * time.Second)
		if got, _ := m.get(t.Context(), "a", slow); got != 2 {
			t.Errorf("an answer lived longer than 10 s: %d", got)
		}
	})
}

func TestMemoIsBounded(t *testing.T) {
	m, n := newMemo[string, int](3), 0
	ask := func(key string) int {
		got, _ := m.get(t.Context(), key, counted(&n, time.Hour, nil))
		return got
	}
	for i := range 3 {
		ask(strconv.Itoa(i))
	}
	ask("0") // used again, so it stays
	ask("3")
	if m.len() != 3 || len(m.answers) != 3 || len(m.asking) != 0 {
		t.Errorf("%d answers, %d in the index, %d questions", m.len(), len(m.answers), len(m.asking))
	}
	if got := ask("0"); got != 1 {
		t.Error("the answer used last was dropped")
	}
	if got := ask("1"); got != 5 {
		t.Error("the answer used least was kept")
	}
}

func TestMemoAsksOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, n := newMemo[string, int](3), 0
		slow := func(context.Context) (int, time.Duration, error) {
			n++
			time.Sleep(time.Second)
			return n, 0, nil // not even to be remembered
		}
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if got, err := m.get(t.Context(), "a", slow); got != 1 || err != nil {
					t.Errorf("%d, %v", got, err)
				}
			})
		}
		all.Wait()
		if n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// Who asks for all may give up: then another asks.
func TestMemoAskerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemo[string, int](3)
		first, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			_, err := m.get(first, "a", func(ctx context.Context) (int, time.Duration, error) {
				<-ctx.Done()
				return 0, time.Hour, ctx.Err()
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("who gave up heard %v", err)
			}
		})
		synctest.Wait()
		impatient, cancel2 := context.WithTimeout(t.Context(), time.Second)
		defer cancel2()
		all.Go(func() {
			if _, err := m.get(impatient, "a", nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("who waited in vain heard %v", err)
			}
		})
		all.Go(func() {
			got, err := m.get(t.Context(), "a", func(context.Context) (int, time.Duration, error) { return 7, time.Hour, nil })
			if got != 7 || err != nil {
				t.Errorf("who waited heard %d, %v", got, err)
			}
		})
		time.Sleep(2 * time.Second)
		cancel()
		all.Wait()
	})
}

func TestMemoForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, n := newMemo[string, int](10), 0
		for _, key := range []string{"a", "b"} {
			_, _ = m.get(t.Context(), key, counted(&n, time.Hour, nil))
		}
		release := make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() {
			got, err := m.get(t.Context(), "old", func(context.Context) (int, time.Duration, error) {
				<-release
				return -1, time.Hour, nil
			})
			if got != -1 || err != nil {
				t.Errorf("who had asked got %d, %v", got, err)
			}
		})
		synctest.Wait()
		m.forget(func(key string) bool { return key != "b" })
		if m.len() != 1 {
			t.Errorf("%d answers are left", m.len())
		}
		// A question from before does not hold up one from after, nor is its answer kept.
		if got, _ := m.get(t.Context(), "old", counted(&n, time.Hour, nil)); got != 3 {
			t.Errorf("asked after: %d", got)
		}
		close(release)
		all.Wait()
		if got, _ := m.get(t.Context(), "old", counted(&n, time.Hour, nil)); got != 3 {
			t.Errorf("remembered: %d", got)
		}
		m.drop("b")
		m.drop("b")
		if got, _ := m.get(t.Context(), "b", counted(&n, time.Hour, nil)); got != 4 {
			t.Errorf("after drop: %d", got)
		}
	})
}

func TestMemoSurvivesAPanic(t *testing.T) {
	m := newMemo[string, int](10)
	func() {
		defer func() { _ = recover() }()
		_, _ = m.get(t.Context(), "a", func(context.Context) (int, time.Duration, error) { panic("oh") })
	}()
	if got, err := m.get(t.Context(), "a", func(context.Context) (int, time.Duration, error) { return 1, 0, nil }); got != 1 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}

func TestSharesAreBounded(t *testing.T) {
	s := newShares(1, 2, 3)
	key := func(b byte) (k [32]byte) { k[0] = b; return k }
	if l, known := s.get(key(1), false); l != nil || known {
		t.Error("a stranger is known")
	}
	first, _ := s.get(key(1), true)
	if again, known := s.get(key(1), false); again != first || !known {
		t.Error("a caller has two shares")
	}
	for b := range byte(3) {
		s.get(key(b+2), true)
	}
	if _, known := s.get(key(1), false); known || s.used.Len() != 3 || len(s.of) != 3 {
		t.Errorf("%d shares are kept, the oldest: %v", s.used.Len(), known)
	}
}
