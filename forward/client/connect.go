package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// headStart is how long a relay may think before the next one is tried beside
// it: one that swallows packets must not cost its whole time limit.
const headStart = time.Second

// finalError marks what trying again cannot cure.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// severalErrors are errors of equal rank, on one line.
type severalErrors []error

func (e severalErrors) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (e severalErrors) Unwrap() []error { return e }

// isFinal reports whether every relay of an attempt gave a final answer: one
// that is merely away may still be the one that accepts.
func isFinal(err error) bool {
	var all severalErrors // what each relay said
	if !errors.As(err, &all) {
		return false
	}
	return !slices.ContainsFunc(all, func(err error) bool {
		var f *finalError
		return !errors.As(err, &f)
	})
}

// isRefusal reports whether a relay understood and said no.
func isRefusal(err error) bool {
	_, is := errors.AsType[*stream.Error](err)
	return is
}

// needsLogin reports whether a relay refused the credential, or there was none
// to be had.
func needsLogin(err error) bool {
	var token *tokenError
	return errors.As(err, &token) || errors.Is(err, &stream.Error{Code: stream.Unauthenticated})
}

// order returns the relays in random order, avoid last.
func (c *Client) order(avoid string) []Relay {
	relays := slices.Clone(c.cfg.Relays)
	rand.Shuffle(len(relays), func(i, j int) { relays[i], relays[j] = relays[j], relays[i] }) //nolint:gosec // nobody gains from guessing it
	slices.SortStableFunc(relays, func(a, b Relay) int {
		switch {
		case (a.Addr == avoid) == (b.Addr == avoid):
			return 0
		case a.Addr == avoid:
			return 1
		}
		return -1
	})
	return relays
}

// connect tries every relay once and returns the first session made. The next
// relay starts when one has failed or its head start is over.
func (c *Client) connect(ctx context.Context, avoid string) (*link, error) {
	relays := c.order(avoid)
	if len(relays) == 0 {
		return nil, severalErrors{&finalError{errors.New("no relay address given")}}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		link *link
		err  error
	}
	results := make(chan result)
	var attempts sync.WaitGroup
	defer attempts.Wait()
	pending := 0
	start := func() {
		relay := relays[0]
		relays = relays[1:]
		pending++
		attempts.Go(func() {
			s, err := c.attachWithin(ctx, relay)
			if err != nil {
				results <- result{err: fmt.Errorf("relay %s: %w", relay.Addr, err)}
				return
			}
			results <- result{link: newLink(s, relay)}
		})
	}
	start()
	patience := time.NewTimer(headStart)
	defer patience.Stop()
	var won *link
	var errs severalErrors
	for pending > 0 {
		select {
		case r := <-results:
			pending--
			switch {
			case r.err != nil:
				errs = append(errs, r.err)
			case won == nil:
				won = r.link
				cancel()
			default:
				_ = r.link.Close() // the second winner was never used
			}
		case <-patience.C:
		}
		if won == nil && len(relays) > 0 && ctx.Err() == nil {
			start()
			patience.Reset(headStart)
		}
	}
	if won == nil {
		return nil, errs
	}
	return won, nil
}

func (c *Client) attachWithin(ctx context.Context, relay Relay) (session, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	return c.attach(ctx, relay)
}
