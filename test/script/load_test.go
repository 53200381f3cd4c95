//go:build linux

package script

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// echo sends a line to an echo service, finishes, and reads it back with a clean
// end. meet, if not nil, is called while the connection is in use.
func (s *script) echo(ctx context.Context, address, text string, meet func()) error {
	c, err := s.cluster.Client.Dial(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	got := make([]byte, len(text))
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if meet != nil {
		meet()
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	rest, err := io.ReadAll(c)
	if err == nil && string(got)+string(rest) != text {
		err = fmt.Errorf("got %q, want %q", got, text)
	}
	return err
}

// crowd is: crowd N ADDRESS. So many connections to an echo service are open at
// once, each having got its answer, before the first one ends.
func (s *script) crowd(ts *testscript.TestScript, args []string) error {
	n, err := count(args)
	if err != nil {
		return err
	}
	began := time.Now()
	var here, all sync.WaitGroup
	here.Add(n)
	errs := make([]error, n)
	for i := range n {
		all.Go(func() {
			arrive := sync.OnceFunc(here.Done)
			defer arrive() // also without an answer, so that nobody waits for ever
			errs[i] = s.echo(s.ctx, args[1], fmt.Sprintf("connection %d", i), func() { arrive(); here.Wait() })
		})
	}
	all.Wait()
	ts.Logf("%d connections at once: %v", n, time.Since(began).Round(time.Millisecond))
	return errors.Join(errs...)
}

// streak is: streak N ADDRESS. So many connections to an echo service, one after
// the other.
func (s *script) streak(ts *testscript.TestScript, args []string) error {
	n, err := count(args)
	if err != nil {
		return err
	}
	began := time.Now()
	for i := range n {
		if err := s.echo(s.ctx, args[1], fmt.Sprintf("connection %d", i), nil); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	took := time.Since(began)
	ts.Logf("%d connections in a row: %v, %v each", n, took.Round(time.Millisecond), (took / time.Duration(n)).Round(time.Microsecond))
	return nil
}

func count(args []string) (int, error) {
	if len(args) != 2 {
		return 0, errUsage(args)
	}
	n, err := strconv.Atoi(args[0])
	if err == nil && n <= 0 {
		err = errUsage(args)
	}
	return n, err
}

// until is: until DURATION ADDRESS. A new connection to an echo service works
// within that time; those before it may fail.
func (s *script) until(ts *testscript.TestScript, args []string) error {
	if len(args) != 2 {
		return errUsage(args)
	}
	limit, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	var last error
	for {
		err := s.echo(ctx, args[1], "is anybody there?", nil)
		took := time.Since(began)
		if err == nil {
			ts.Logf("works after %v", took.Round(time.Millisecond))
			if took > limit {
				return fmt.Errorf("it took %v until a connection worked, longer than %v; before that: %w", took, limit, last)
			}
			return nil
		}
		last = err
		if perr := pause(ctx); perr != nil {
			return fmt.Errorf("no connection works: %w", last)
		}
	}
}
