//go:build linux

package e2e

import (
	"context"
	"sync"
	"testing"
	"time"
)

// tryTimeout bounds one behaviour on one way.
const tryTimeout = 3 * time.Minute

// compare tries every behaviour on every way. A way on which one is known to fail
// must fail: a note that is no longer true is wrong too.
func compare(t *testing.T, title string, behaviours []behaviour, scenes []*scene) *table {
	t.Helper()
	result := &table{title: title}
	for _, s := range scenes {
		result.columns = append(result.columns, s.name)
	}
	for _, b := range behaviours {
		r := row{name: b.name, note: b.note, cells: make([]bool, len(scenes))}
		var running sync.WaitGroup
		for i, s := range scenes {
			running.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), tryTimeout)
				defer cancel()
				began := time.Now()
				err := b.try(ctx, s)
				r.cells[i] = err == nil
				t.Logf("%5.1f s  %s: %s: %v", time.Since(began).Seconds(), s.name, b.name, err)
				if known := b.fails(s.way); known && err == nil {
					t.Errorf("%s: %s: works, but is said not to", s.name, b.name)
				} else if !known && err != nil {
					t.Errorf("%s: %s: %v", s.name, b.name, err)
				}
			})
		}
		running.Wait()
		result.rows = append(result.rows, r)
	}
	return result
}
