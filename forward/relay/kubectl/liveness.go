package kubectl

import (
	"context"
	"errors"
	"time"
)

// deadRetries is after how many unanswered packets in a row a peer's kernel counts
// as gone, if its process has been silent for SilenceTimeout too. They are sent
// after 0.2 s, 0.4 s and so on, so this is far below a minute of an unplugged cable.
const deadRetries = 4

var (
	errSilent  = errors.New("nothing came from the client for too long")
	errBlocked = errors.New("the client took nothing for too long")
	errNoFrame = errors.New("the client sent no frame")
)

// signs are what was seen of a client, and when that last changed.
type signs struct {
	received, taken int64
	quiet           time.Time // since nothing has come from it
	still           time.Time // since it has taken nothing either
}

// look takes notice of what has changed.
func (c *carrier) look(s *signs, now time.Time) {
	received, taken := c.received.Load(), c.out.progress()
	if received != s.received || c.held.Load() {
		s.quiet, s.still = now, now
	}
	if taken != s.taken {
		s.still = now
	}
	s.received, s.taken = received, taken
}

// watch ends the session when its time has come, and otherwise keeps an eye on the
// client. It returns when done is closed.
//
// A client that is silent need not be gone. kubectl reads no frame while one of its
// local readers takes nothing, and then it answers no ping either; to reset it would
// break what a person has only paused. Its kernel still acknowledges what we send,
// which a dead peer's does not.
func (c *carrier) watch(done <-chan struct{}) {
	tick := time.NewTicker(c.cfg.PingInterval)
	defer tick.Stop()
	over, ended := c.user.Over(), c.ctx.Done()
	begun := time.Now()
	seen := signs{quiet: begun, still: begun}
	for {
		select {
		case <-done:
			return
		case <-over:
			over, ended = nil, nil
			c.over(c.user.Why())
		case <-ended:
			over, ended = nil, nil
			c.over(context.Cause(c.ctx))
		case now := <-tick.C:
			c.look(&seen, now)
			if err := c.dead(&seen, now); err != nil {
				c.lose(err)
				return
			}
			if c.spoken.Load() && c.out.blockedSince().IsZero() {
				c.ping()
			}
		}
	}
}

// dead judges a client by what was seen of it.
func (c *carrier) dead(s *signs, now time.Time) error {
	blocked := c.out.blockedSince()
	silence := now.Sub(s.quiet)
	switch {
	case !blocked.IsZero() && now.Sub(blocked) >= c.cfg.BlockedTimeout:
		return errBlocked
	case !c.spoken.Load():
		if silence >= c.cfg.FirstFrameTimeout {
			return errNoFrame
		}
		return nil
	case silence < c.cfg.SilenceTimeout:
		return nil
	case now.Sub(s.still) >= c.cfg.BlockedTimeout:
		return errSilent
	}
	retries, known := tcpRetries(c.conn)
	if known && retries < deadRetries || !known && !blocked.IsZero() {
		return nil
	}
	return errSilent
}
