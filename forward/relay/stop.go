package relay

import (
	"context"
	"sync"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// stopper ends a stream from outside. The zero value is ready.
type stopper struct {
	mu    sync.Mutex
	cut   context.CancelCauseFunc
	cause error  // why it ends; nil: it need not
	by    string // who wanted that; empty: nobody
}

// arm says how the stream is ended, which is done at once if that was wanted before.
func (s *stopper) arm(cut context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut = cut; s.cause != nil {
		cut(s.cause)
	}
}

// end ends the stream. The first cause is the one.
func (s *stopper) end(cause error, by string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return
	}
	if s.cause, s.by = cause, by; s.cut != nil {
		s.cut(cause)
	}
}

// stop ends the stream because somebody wants that.
func (s *stopper) stop(by string) { s.end(stopped(by), by) }

// crowds ends the stream because it holds memory that others need.
func (s *stopper) crowds() { s.end(errCrowds, "") }

// who stopped it; empty if nobody did.
func (s *stopper) who() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by
}

// stopped is what both ends hear.
func stopped(by string) error {
	return &stream.Error{Code: stream.Stopped, Text: "stopped by " + by}
}
