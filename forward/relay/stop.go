package relay

import (
	"context"
	"sync"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// stopper ends a stream because somebody wants that. The zero value is ready.
type stopper struct {
	mu  sync.Mutex
	cut context.CancelCauseFunc
	by  string
}

// arm says how the stream is ended, which is done at once if that was wanted before.
func (s *stopper) arm(cut context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut = cut; s.by != "" {
		cut(stopped(s.by))
	}
}

// stop ends the stream. The first one to do so is the one.
func (s *stopper) stop(by string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by != "" {
		return
	}
	if s.by = by; s.cut != nil {
		s.cut(stopped(by))
	}
}

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
