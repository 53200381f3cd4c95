// Package forwardtest holds the conformance suite for everything that implements forward.Conn, and a
// connection in memory that passes it.
//
// The suite is about ends: what is finished is read to its last byte and then as io.EOF, what is aborted
// is never read as io.EOF, and nothing ever waits for a peer that is gone.
package forwardtest

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward"
)

// limit is how long one case may take before it counts as hanging. It is far beyond what a slow
// machine needs, since it decides nothing else.
const limit = 30 * time.Second

// errNotOffered says that the connection lacks the optional part that a case is about.
var errNotOffered = errors.New("not offered by this Conn")

// testCase checks one property of a connected pair. It may do as it likes with both ends.
type testCase struct {
	name string
	run  func(a, b forward.Conn) error
}

// TestConn runs the suite. mk makes two ends of one new connection, and a stop function (nil if not
// needed) that is called after both ends were closed and frees what is beneath. Every case runs twice, with
// the ends swapped the second time. A case that hangs fails with the stacks of all goroutines.
func TestConn(t *testing.T, mk func() (a, b forward.Conn, stop func(), err error)) {
	t.Helper()
	runAll(t, mk, finishCases, abortCases, unblockCases, bulkCases, lazyCases, pushCases, frameCases, waitCases)
}

// TestErrReset checks in addition that aborts are told apart from other errors: both sides get
// forward.ErrReset, and the side that aborted gets its own cause back.
func TestErrReset(t *testing.T, mk func() (a, b forward.Conn, stop func(), err error)) {
	t.Helper()
	runAll(t, mk, errResetCases)
}

func runAll(t *testing.T, mk func() (a, b forward.Conn, stop func(), err error), groups ...[]testCase) {
	t.Helper()
	for _, group := range groups {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				for _, swap := range []bool{false, true} {
					a, b, stop, err := mk()
					if err != nil {
						t.Fatalf("make a pair: %v", err)
					}
					if swap {
						a, b = b, a
					}
					err = guard(a, b, stop, c.run)
					if errors.Is(err, errNotOffered) {
						t.Log(err) // an optional part: there is nothing to check
						return
					}
					if err != nil {
						t.Fatalf("swapped %v: %v", swap, err)
					}
				}
			})
		}
	}
}

// guard runs one case and cleans up after it. If that takes too long it returns the stacks of all
// goroutines, after one attempt to free the case by resetting both ends.
func guard(a, b forward.Conn, stop func(), run func(a, b forward.Conn) error) error {
	done := make(chan error, 1)
	go func() {
		err := run(a, b)
		_, _ = a.Close(), b.Close()
		if stop != nil {
			stop()
		}
		done <- err
	}()
	watchdog := time.NewTimer(limit)
	defer watchdog.Stop()
	select {
	case err := <-done:
		return err
	case <-watchdog.C:
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	_, _ = a.Reset(errors.New("test hangs")), b.Reset(errors.New("test hangs"))
	watchdog.Reset(limit)
	select {
	case err := <-done:
		return fmt.Errorf("hung for %v, ended after a reset with: %v\n%s", limit, err, stacks)
	case <-watchdog.C:
		return fmt.Errorf("hung for %v and not even a reset helped\n%s", limit, stacks)
	}
}

// both runs f and g at the same time and returns the first error. When one fails, both ends are reset so
// that the other does not wait for it.
func both(a, b forward.Conn, f, g func() error) error {
	var (
		once  sync.Once
		first error
		wg    sync.WaitGroup
	)
	try := func(f func() error) {
		if err := f(); err != nil {
			once.Do(func() {
				first = err
				_, _ = a.Reset(err), b.Reset(err)
			})
		}
	}
	wg.Go(func() { try(g) })
	try(f)
	wg.Wait()
	return first
}

// send writes p and, if asked to, finishes.
func send(c forward.Conn, p []byte, finish bool) error {
	if n, err := c.Write(p); err != nil || n != len(p) {
		return fmt.Errorf("write %d bytes: %d, %w", len(p), n, err)
	}
	if finish {
		return finishWrite(c)
	}
	return nil
}

func finishWrite(c forward.Conn) error {
	if err := c.CloseWrite(); err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	return nil
}

// expect reads exactly want.
func expect(c forward.Conn, want []byte) error {
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("read %d bytes: %d, %w", len(want), n, err)
	}
	if string(got) != string(want) {
		return fmt.Errorf("read %d bytes that are not those written", len(want))
	}
	return nil
}

// expectEOF checks that the next reads find the end, and no byte more.
func expectEOF(c forward.Conn) error {
	p := make([]byte, 16)
	for i := range 3 {
		if n, err := c.Read(p); n != 0 || err != io.EOF {
			return fmt.Errorf("read %d at the end: %d, %v; want 0, EOF itself", i+1, n, err)
		}
	}
	return nil
}

// expectAbort reads until an error and checks that it is one, and stays one.
func expectAbort(c forward.Conn) error {
	p := make([]byte, 4096)
	var err error
	for err == nil {
		_, err = c.Read(p)
	}
	for i := range 4 {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("read %d after an abort: %w, so a cut stream looks complete", i+1, err)
		}
		if _, err = c.Read(p); err == nil {
			return fmt.Errorf("read %d after an abort brought no error", i+2)
		}
	}
	return nil
}

// writeAbort writes until an error, which has to come.
func writeAbort(c forward.Conn) error {
	p := make([]byte, 16<<10)
	for {
		if _, err := c.Write(p); errors.Is(err, io.EOF) {
			return fmt.Errorf("write after an abort: %w", err)
		} else if err != nil {
			break
		}
	}
	if _, err := c.Write(p); err == nil {
		return errors.New("a write worked again after one had failed")
	}
	return nil
}
