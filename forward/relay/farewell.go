package relay

import (
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

const (
	// farewellTime bounds how long it is waited until everybody was told that the
	// relay goes away.
	farewellTime = time.Second
	// wireTime is what gRPC is given to write that: it does so on its own time.
	wireTime = 100 * time.Millisecond
)

// audience counts those who are to be told that the relay goes away. The zero value
// is ready.
type audience struct {
	mu    sync.Mutex
	crowd crowd
}

// enter counts one in, until what it returns is called.
func (a *audience) enter() (leave func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.crowd.enter()
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.crowd.leave()
	})
}

// await waits until everybody has been told, but not for long.
func (a *audience) await() {
	a.mu.Lock()
	n, told := a.crowd.n, a.crowd.gone()
	a.mu.Unlock()
	if n == 0 {
		return
	}
	limit := time.NewTimer(farewellTime)
	defer limit.Stop()
	select {
	case <-told:
		<-time.After(wireTime)
	case <-limit.C:
	}
}

// farewell is what agents and clients are told at the end. So many as there are
// come back somewhere else.
func (s *Server) farewell() *controlv1.GoingAway {
	return &controlv1.GoingAway{
		Reason: errShutdown.Text, Grace: durationpb.New(s.cfg.DrainTimeout),
		Spread: durationpb.New(spreadOver(int(s.sessions.Load()))),
	}
}

// reportCut says how many streams did not end within the drain timeout. The line is
// what stays: nobody may ask for the metrics of a process that ends.
func (s *Server) reportCut() {
	streams := s.flows.len()
	_, requests := s.front.count()
	s.metrics.cut.Add(streams)
	if streams == 0 && requests == 0 {
		s.cfg.Log.Info("all streams have ended")
		return
	}
	s.cfg.Log.Warn("streams are cut", "streams", streams, "http_requests", requests, "drain_timeout", s.cfg.DrainTimeout.String())
}
