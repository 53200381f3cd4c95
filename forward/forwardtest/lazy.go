package forwardtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward"
)

// lazyCases are the contract of forward.LazyReader; skipped if the Conn is none.
var lazyCases = []testCase{
	{"lazy: idle holds no buffer", lazyIdle},
	{"lazy: data, then the end", lazyToEnd},
	{"lazy: mixed with plain reads", lazyMixed},
	{"lazy: reset by the peer", func(a, b forward.Conn) error { return lazyReset(a, b, a) }},
	{"lazy: own reset", func(a, b forward.Conn) error { return lazyReset(a, b, b) }},
}

// ledger lends one buffer and keeps count.
type ledger struct {
	buf   []byte
	out   atomic.Int32
	wrong atomic.Bool // two buffers out, or one returned that was not out
}

func (l *ledger) borrow() []byte {
	if l.out.Add(1) != 1 {
		l.wrong.Store(true)
	}
	return l.buf
}

func (l *ledger) release() {
	if l.out.Add(-1) != 0 {
		l.wrong.Store(true)
	}
}

// read does one ReadLazy, checks the balance after it and takes the buffer back.
func (l *ledger) read(c forward.Conn) ([]byte, error) {
	n, err := c.(forward.LazyReader).ReadLazy(l.borrow, l.release)
	switch out := l.out.Load(); {
	case l.wrong.Load():
		return nil, errors.New("borrow and release do not alternate")
	case n < 0 || n > len(l.buf):
		return nil, fmt.Errorf("read %d bytes into a buffer of %d", n, len(l.buf))
	case n == 0 && out != 0:
		return nil, fmt.Errorf("nothing read and a buffer still out; error: %v", err)
	case n > 0 && out != 1:
		return nil, fmt.Errorf("read %d bytes with %d buffers out; error: %v", n, out, err)
	case n == 0 && err == nil:
		return nil, errors.New("neither data nor an error")
	}
	l.out.Store(0)
	return l.buf[:n], err
}

func isLazy(c forward.Conn) error {
	if _, ok := c.(forward.LazyReader); !ok {
		return fmt.Errorf("LazyReader: %w", errNotOffered)
	}
	return nil
}

// lazyIdle: before each piece of data the reader waits, and while it waits no buffer is out.
func lazyIdle(a, b forward.Conn) error {
	if err := isLazy(b); err != nil {
		return err
	}
	l := &ledger{buf: make([]byte, 1024)}
	asked := make(chan struct{})
	return both(a, b,
		func() error {
			for range asked {
				settle()
				if err := l.waitUntilNoneOut(); err != nil {
					return err
				}
				if err := send(a, []byte("ping"), false); err != nil {
					return err
				}
			}
			return nil
		},
		func() error {
			defer close(asked)
			for range 5 {
				asked <- struct{}{}
				for want := []byte("ping"); len(want) > 0; {
					p, err := l.read(b)
					if err != nil {
						return err
					}
					if !bytes.HasPrefix(want, p) {
						return fmt.Errorf("read %q, want %q", p, want)
					}
					want = want[len(p):]
				}
			}
			return nil
		})
}

// waitUntilNoneOut forgives a buffer that is out for a moment, as between a try and its failure.
func (l *ledger) waitUntilNoneOut() error {
	for range 200 {
		if l.out.Load() == 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("a buffer is held while there is nothing to read")
}

func lazyToEnd(a, b forward.Conn) error {
	if err := isLazy(b); err != nil {
		return err
	}
	want := bytes.Repeat([]byte("0123456789"), 20_000)
	return both(a, b,
		func() error { return send(a, want, true) },
		func() error {
			l := &ledger{buf: make([]byte, 999)}
			var got []byte
			for {
				p, err := l.read(b)
				got = append(got, p...)
				if err == io.EOF {
					break
				}
				if err != nil {
					return err
				}
			}
			if !bytes.Equal(got, want) {
				return fmt.Errorf("read %d bytes, want the %d written", len(got), len(want))
			}
			if _, err := l.read(b); err != io.EOF {
				return fmt.Errorf("lazy read after the end: %v", err)
			}
			return expectEOF(b)
		})
}

// lazyMixed: small lazy reads and plain ones take turns within one larger write, and no byte is lost.
func lazyMixed(a, b forward.Conn) error {
	if err := isLazy(b); err != nil {
		return err
	}
	want := bytes.Repeat([]byte("abcdefghijklmnopqrstuvwxyz"), 100)
	return both(a, b,
		func() error { return send(a, want, true) },
		func() error {
			l := &ledger{buf: make([]byte, 7)}
			plain := make([]byte, 5)
			rest := want
			for turn := 0; len(rest) > 0; turn++ {
				var p []byte
				var err error
				if turn%2 == 0 {
					p, err = l.read(b)
				} else {
					var n int
					n, err = b.Read(plain)
					p = plain[:n]
				}
				if !bytes.HasPrefix(rest, p) {
					return fmt.Errorf("after %d bytes: read %q", len(want)-len(rest), p)
				}
				rest = rest[len(p):]
				if err != nil && (err != io.EOF || len(rest) > 0) {
					return fmt.Errorf("after %d bytes: %w", len(want)-len(rest), err)
				}
			}
			return expectEOF(b)
		})
}

// lazyReset: b waits lazily while one of the two resets.
func lazyReset(a, b, resets forward.Conn) error {
	if err := isLazy(b); err != nil {
		return err
	}
	return both(a, b,
		func() error { settle(); return resets.Reset(errOnPurpose) },
		func() error {
			l := &ledger{buf: make([]byte, 64)}
			for range 3 {
				if _, err := l.read(b); err == nil || errors.Is(err, io.EOF) {
					return fmt.Errorf("lazy read of an aborted connection: %v", err)
				}
			}
			return expectAbort(b)
		})
}
