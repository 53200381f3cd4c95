package broker

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// beat is how often a follower hears something.
	beat = 5 * time.Second
	// lookAround is how often the source of pods is asked whether it is well.
	lookAround = time.Second
)

// news wakes followers. Its channel must be made.
type news struct {
	mu      sync.Mutex
	list    int           // grows when the list changes
	trouble string        // of the source
	known   bool          // the pods were known once
	changed chan struct{} // closed and replaced at each change
}

// look returns what is now, and what is closed when that has changed.
func (n *news) look() (list int, trouble string, known bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.list, n.trouble, n.known, n.changed
}

// note tells followers if something is new.
func (n *news) note(list bool, trouble string, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !list && trouble == n.trouble && (n.known || !known) {
		return
	}
	if list || known && !n.known {
		n.list++
	}
	n.trouble, n.known = trouble, n.known || known
	close(n.changed)
	n.changed = make(chan struct{})
}

// watch tells followers what becomes of the pods.
func (s *Server) watch(ctx context.Context) {
	tick := time.NewTicker(lookAround)
	defer tick.Stop()
	for list := false; ; {
		trouble := ""
		if err := s.cfg.Pods.Ready(); err != nil {
			trouble = err.Error()
		}
		// A list that was never whole says nothing of the pods that are not on it.
		s.news.note(list, trouble, trouble == "" || len(s.cfg.Pods.List()) > 0)
		select {
		case <-s.cfg.Pods.Changed():
			list = true
		case <-tick.C:
			list = false
		case <-ctx.Done():
			return
		}
	}
}

// follow tells a client of the pods until one end closes.
func (s *Server) follow(ctx context.Context, c *net.UnixConn) {
	if !s.mayFollow(c) {
		s.complain("peer not let in", errFollowers)
		_ = s.send(c, appendAnswer(nil, refusal(errFollowers)), nil)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	var listening sync.WaitGroup
	defer listening.Wait()
	defer c.Close()
	defer cancel()
	listening.Go(func() {
		_, _ = c.Read(make([]byte, 1)) // a follower has nothing more to say
		cancel()
	})
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for sent := 0; ; {
		list, trouble, known, changed := s.news.look()
		if known && list != sent {
			if s.sendPods(c) != nil {
				return
			}
			sent = list
		}
		now := state{hostNetwork: s.cfg.Pods.HostNetwork(), trouble: trouble}
		if s.send(c, appendState(nil, now), nil) != nil {
			return
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

var errFollowers = &stream.Error{Code: stream.Overloaded, Text: "too many follow the pods"}

// mayFollow counts a follower.
func (s *Server) mayFollow(c *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, follows := range s.conns {
		if follows {
			n++
		}
	}
	if n >= maxFollowers {
		return false
	}
	s.conns[c] = true
	return true
}

// sendPods sends all pods.
func (s *Server) sendPods(c *net.UnixConn) error {
	rest := s.cfg.Pods.List()
	var buf, msg []byte
	for first := true; first || len(rest) > 0; first = false {
		msg, rest = appendPiece(buf[:0], first, rest)
		if err := s.send(c, msg, nil); err != nil {
			return err
		}
		buf = msg
	}
	return nil
}
