package forwardtest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/culvert-k8s/culvert/forward"
)

var errOnPurpose = errors.New("on purpose")

// abortCases are about what the peer of an abort sees.
var abortCases = []testCase{
	{"reset seen by an idle reader", func(a, b forward.Conn) error {
		return both(a, b,
			func() error { return a.Reset(errOnPurpose) },
			func() error { return expectAbort(b) })
	}},
	{"reset without a cause", func(a, b forward.Conn) error {
		return both(a, b,
			func() error { return a.Reset(nil) },
			func() error { return expectAbort(b) })
	}},
	{"reset with data in flight", resetInFlight},
	{"reset seen by a blocked writer", func(a, b forward.Conn) error {
		return resetWhileBlocked(a, b, writeAbort)
	}},
	{"reset seen by a blocked reader and writer", func(a, b forward.Conn) error {
		return resetWhileBlocked(a, b, func(c forward.Conn) error {
			return both(a, b,
				func() error { return writeAbort(c) },
				func() error { return expectAbort(c) })
		})
	}},
	{"reset after the peer finished", resetAfterPeerFinished},
	{"reset instead of a finish", resetMidDownload},
	{"reset both sides at once", func(a, b forward.Conn) error {
		err := both(a, b,
			func() error { return a.Reset(errOnPurpose) },
			func() error { return b.Reset(errOnPurpose) })
		return errors.Join(err, expectAbort(a), expectAbort(b))
	}},
	{"close before the end is a reset", func(a, b forward.Conn) error {
		return both(a, b, a.Close, func() error { return expectAbort(b) })
	}},
	{"close after own finish only is a reset", func(a, b forward.Conn) error {
		return both(a, b,
			func() error { return errors.Join(finishWrite(a), a.Close()) },
			func() error { return writeAbort(b) })
	}},
	{"close after the peer's finish only is a reset", func(a, b forward.Conn) error {
		err := errors.Join(finishWrite(b), expectEOF(a))
		return errors.Join(err, a.Close(), expectAbort(b))
	}},
}

// resetInFlight: a resets while its own data is on the way; b may read some of it but no end.
func resetInFlight(a, b forward.Conn) error {
	write := func() error {
		if err := send(a, bytes.Repeat([]byte("data"), 1000), false); err != nil {
			return err
		}
		return a.Reset(errOnPurpose)
	}
	return both(a, b, write, func() error { return expectAbort(b) })
}

// resetWhileBlocked resets a, which reads nothing, once b has written enough to be blocked or nearly so.
func resetWhileBlocked(a, b forward.Conn, blocked func(forward.Conn) error) error {
	p := make([]byte, 32<<10)
	return both(a, b,
		func() error {
			// One piece read proves that the writer runs; it then goes on until nothing fits any more.
			if _, err := a.Read(p); err != nil {
				return fmt.Errorf("read: %w", err)
			}
			settle()
			return a.Reset(errOnPurpose)
		},
		func() error { return blocked(b) })
}

// resetAfterPeerFinished: b has finished, so a's reading is over; when b aborts, a's writing must be too.
func resetAfterPeerFinished(a, b forward.Conn) error {
	if err := errors.Join(finishWrite(b), expectEOF(a)); err != nil {
		return err
	}
	return both(a, b,
		func() error { return writeAbort(a) },
		func() error {
			if _, err := b.Read(make([]byte, 1)); err != nil {
				return fmt.Errorf("read: %w", err)
			}
			return b.Reset(errOnPurpose)
		})
}

// resetMidDownload: a asked, finished and waits for the answer; b dies in the middle of it.
func resetMidDownload(a, b forward.Conn) error {
	if err := finishWrite(a); err != nil {
		return err
	}
	return both(a, b,
		func() error { return expectAbort(a) },
		func() error {
			if err := errors.Join(expectEOF(b), send(b, []byte("18 of 120 bytes .."), false)); err != nil {
				return err
			}
			return b.Reset(errOnPurpose)
		})
}

// unblockCases are about the side that aborts.
var unblockCases = []testCase{
	{"reset frees the own reader", func(a, b forward.Conn) error {
		return both(a, b,
			func() error { return expectAbort(a) },
			func() error { settle(); return a.Reset(errOnPurpose) })
	}},
	{"reset frees the own writer", func(a, b forward.Conn) error {
		return both(a, b,
			func() error { return writeAbort(a) },
			func() error { settle(); return a.Reset(errOnPurpose) })
	}},
	{"close frees the own reader and writer", func(a, b forward.Conn) error {
		return both(a, b,
			func() error {
				return both(a, b,
					func() error { return writeAbort(a) },
					func() error { return expectAbort(a) })
			},
			func() error { settle(); return a.Close() })
	}},
	{"reset and close from many goroutines", resetFromMany},
}

func resetFromMany(a, b forward.Conn) error {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 16 {
		wg.Go(func() {
			<-start
			switch i % 4 {
			case 0:
				_ = a.Close()
			case 1:
				_ = b.Reset(errOnPurpose)
			default:
				_ = a.Reset(errOnPurpose)
			}
		})
	}
	// The four users of the connection are at work while it is torn down.
	users := []func() error{
		func() error { return expectAbort(a) }, func() error { return writeAbort(a) },
		func() error { return expectAbort(b) }, func() error { return writeAbort(b) },
	}
	errs := make([]error, len(users))
	for i, use := range users {
		wg.Go(func() { errs[i] = use() })
	}
	close(start)
	wg.Wait()
	return errors.Join(errs...)
}

// errResetCases are the cases of TestErrReset.
var errResetCases = []testCase{
	{"local errors name the reset and its cause", func(a, b forward.Conn) error {
		if err := a.Reset(errOnPurpose); err != nil {
			return err
		}
		_, readErr := a.Read(make([]byte, 1))
		_, writeErr := a.Write([]byte("x"))
		return errors.Join(wantIs(readErr, forward.ErrReset, errOnPurpose), wantIs(writeErr, forward.ErrReset, errOnPurpose))
	}},
	{"the first cause stays", func(a, b forward.Conn) error {
		_, _ = a.Reset(errOnPurpose), a.Reset(errors.New("second"))
		_, err := a.Read(make([]byte, 1))
		return wantIs(err, errOnPurpose)
	}},
	{"the peer's errors name the reset", func(a, b forward.Conn) error {
		if err := a.Reset(errOnPurpose); err != nil {
			return err
		}
		_, readErr := b.Read(make([]byte, 1))
		_, writeErr := b.Write([]byte("x"))
		return errors.Join(wantIs(readErr, forward.ErrReset), wantIs(writeErr, forward.ErrReset))
	}},
	{"finish after a reset by the peer", func(a, b forward.Conn) error {
		if err := errors.Join(a.Reset(errOnPurpose), expectAbort(b)); err != nil {
			return err
		}
		return wantIs(b.CloseWrite(), forward.ErrReset)
	}},
}

func wantIs(err error, targets ...error) error {
	for _, target := range targets {
		if !errors.Is(err, target) {
			return fmt.Errorf("error %v is not %v", err, target)
		}
	}
	return nil
}
