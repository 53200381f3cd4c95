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
	heard, quiet := c.received.Load(), time.Now()
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
			if n := c.received.Load(); n != heard || c.held.Load() {
				heard, quiet = n, now
			}
			if err := c.dead(now, now.Sub(quiet)); err != nil {
				c.lose(err)
				return
			}
			if c.spoken.Load() && c.out.blockedSince().IsZero() {
				c.ping()
			}
		}
	}
}

// dead judges a client that has been silent for this long.
func (c *carrier) dead(now time.Time, silence time.Duration) error {
	blocked := c.out.blockedSince()
	if !blocked.IsZero() && now.Sub(blocked) >= c.cfg.BlockedTimeout {
		return errBlocked
	}
	if !c.spoken.Load() {
		if silence >= c.cfg.FirstFrameTimeout {
			return errNoFrame
		}
		return nil
	}
	if silence < c.cfg.SilenceTimeout {
		return nil
	}
	if silence >= c.cfg.BlockedTimeout {
		return errSilent
	}
	retries, known := tcpRetries(c.conn)
	if known && retries < deadRetries || !known && !blocked.IsZero() {
		return nil
	}
	return errSilent
}
