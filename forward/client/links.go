package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// freshFor is how young a session is whose credential is not worth renewing.
const freshFor = 10 * time.Second

// announce tells everybody who waits that the state changed. mu is held.
func (c *Client) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) setOnce(once bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.once = once
	c.announce()
}

// end makes err the answer to every call from now on; the first one stays.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = err
		c.announce()
	}
}

func (c *Client) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastErr = err
}

// install makes l the session for new streams. The Client owns l afterwards,
// on error it is closed.
func (c *Client) install(l *link) error {
	c.mu.Lock()
	if err := c.ended; err != nil {
		c.mu.Unlock()
		_ = l.Close() // never used
		return err
	}
	c.cur = l
	c.vain.times = min(c.vain.times, 1)
	gone := c.prune()
	c.announce()
	c.mu.Unlock()
	closeAll(gone)
	return nil
}

// present returns the session for new streams, nil if there is none alive.
func (c *Client) present() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur != nil && c.cur.dead() {
		return nil
	}
	return c.cur
}

// remove drops a session that ended.
func (c *Client) remove(l *link) {
	c.mu.Lock()
	if c.cur == l {
		c.cur = nil
	}
	c.mu.Unlock()
	_ = l.Close() // it is dead already
}

// retire takes a session that refuses new streams out of use and lets those
// that run go on: a relay that goes away closes it when it is empty. Another one
// takes its place within spread, at once if somebody waits for it.
func (c *Client) retire(l *link, spread time.Duration) {
	c.mu.Lock()
	var gone []*link
	if c.cur == l {
		c.cur = nil
		gone = c.prune()
		c.retired = append(c.retired, l)
		l.spread = spread
		close(l.left)
	} else if i := slices.Index(c.others, l); i >= 0 {
		c.others = slices.Delete(c.others, i, i+1)
		c.retired = append(c.retired, l)
	}
	c.mu.Unlock()
	closeAll(gone)
}

// expired hears that l refused a stream for its credential, and tells whether
// another session has or will have a better one. Streams that run go on.
func (c *Client) expired(l *link) bool {
	c.mu.Lock()
	current, once := c.cur == l, c.once
	c.mu.Unlock()
	switch {
	case once:
		return false
	case !current:
		return true // others have noticed before
	case time.Since(l.began) < freshFor:
		return false // its credential was the best there is
	}
	if c.cfg.Expired != nil {
		c.cfg.Expired()
	}
	c.retire(l, 0)
	return true
}

// prune takes retired sessions that ended off the list. mu is held.
func (c *Client) prune() (gone []*link) {
	c.retired = slices.DeleteFunc(c.retired, func(l *link) bool {
		if l.dead() {
			gone = append(gone, l)
			return true
		}
		return false
	})
	return gone
}

func closeAll(links []*link) {
	for _, l := range links {
		_ = l.Close() // they are dead already
	}
}

// current returns a session that is alive, waiting for one until ctx ends. A
// waiting call makes Run try at once.
func (c *Client) current(ctx context.Context) (*link, error) {
	for {
		c.mu.Lock()
		l, ended, once, changed, last := c.cur, c.ended, c.once, c.changed, c.lastErr
		c.mu.Unlock()
		switch {
		case ended != nil:
			return nil, ended
		case l != nil && !l.dead():
			return l, nil
		case once && l != nil:
			return nil, l.lost()
		case once:
			return nil, offline(last, nil)
		}
		c.hurry()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, offline(c.lastAttempt(), ctx.Err())
		}
	}
}

// hurry cuts the pause between two attempts short.
func (c *Client) hurry() {
	select {
	case c.kick <- struct{}{}:
	default: // somebody asked already
	}
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended != nil
}

func (c *Client) lastAttempt() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastErr
}

// ErrOffline is wrapped by the errors of calls that found no session to any
// relay in time. The last failed attempt is in the chain too.
var ErrOffline = errors.New("no relay answers")

// offlineError is ErrOffline with what the last attempt said, and with the end
// of the context, which is in the chain but not worth a word.
type offlineError struct{ last, ctx error }

func offline(last, ctx error) error { return &offlineError{last: last, ctx: ctx} }

func (e *offlineError) Error() string {
	if e.last == nil {
		return ErrOffline.Error()
	}
	return ErrOffline.Error() + ": " + e.last.Error()
}

func (e *offlineError) Unwrap() []error {
	chain := []error{ErrOffline}
	for _, err := range []error{e.last, e.ctx} {
		if err != nil {
			chain = append(chain, err)
		}
	}
	return chain
}

func (l *link) dead() bool {
	select {
	case <-l.Done():
		return true
	default:
		return false
	}
}

// lost says that the session ended, and why.
func (l *link) lost() error {
	return fmt.Errorf("relay %s: %w", l.relay, l.Err())
}
