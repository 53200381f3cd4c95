package relay

import "time"

// watchAfter is how long a stream runs before somebody watches over it beside those who
// copy. What there is to see stays to be seen; most streams are over by then, and a
// goroutine that waits for eight things costs as much as one that copies.
const watchAfter = 20 * time.Millisecond

// watcher is a goroutine that may not have begun yet.
type watcher struct {
	timer *time.Timer
	ended chan struct{} // the end of f, if it has begun
}

// later runs f in a goroutine of its own after watchAfter, unless that ends before.
func later(f func()) *watcher {
	w := &watcher{ended: make(chan struct{})}
	w.timer = time.AfterFunc(watchAfter, func() {
		defer close(w.ended)
		f()
	})
	return w
}

// end waits for f, which must have been told to end, if it has begun.
func (w *watcher) end() {
	if !w.timer.Stop() {
		<-w.ended
	}
}
