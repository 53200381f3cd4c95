package forward_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/culvert-k8s/culvert/forward"
)

// joined is a running Join with what is at its far ends: x is the peer of a, y of b.
type joined struct {
	x, y   forward.Conn
	cancel context.CancelCauseFunc
	result chan result
}

type result struct {
	stats forward.Stats
	err   error
}

// start joins two fresh connections. spoil, if not nil, may replace the ends given to Join.
func start(t *testing.T, mkA, mkB func() (a, b forward.Conn, stop func(), err error), spoil func(a, b forward.Conn) (forward.Conn, forward.Conn)) *joined {
	t.Helper()
	x, a, _, errA := mkA()
	y, b, _, errB := mkB()
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if spoil != nil {
		a, b = spoil(a, b)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	j := &joined{x: x, y: y, cancel: cancel, result: make(chan result, 1)}
	go func() { // ends with the test, which takes the result
		var r result
		r.stats, r.err = new(forward.Joiner).Join(ctx, a, b, nil)
		j.result <- r
	}()
	t.Cleanup(func() {
		cancel(nil)
		x.Close()
		y.Close()
	})
	return j
}

// end is what one side of a Join comes to see.
type end int

const (
	finished end = iota // io.EOF
	aborted             // an error that is not io.EOF
	either              // it had read io.EOF, and then was aborted
)

func readToEnd(c forward.Conn) end {
	p := make([]byte, 1024)
	for {
		if _, err := c.Read(p); err == io.EOF {
			return finished
		} else if err != nil {
			return aborted
		}
	}
}

// endings is the table of who ends how and what the others must see of it.
var endings = []struct {
	name  string
	spoil func(a, b forward.Conn) (forward.Conn, forward.Conn)
	act   func(j *joined)
	x, y  end
	err   error // nil: the Join was clean
	watch bool  // only if a is an AbortWaiter
}{
	{"x finishes, then y", nil, func(j *joined) {
		j.x.CloseWrite()
		readToEnd(j.y)
		j.y.CloseWrite()
	}, finished, finished, nil, false},
	{"y finishes, then x", nil, func(j *joined) {
		j.y.CloseWrite()
		readToEnd(j.x)
		j.x.CloseWrite()
	}, finished, finished, nil, false},
	{"both finish at once", nil, func(j *joined) { j.x.CloseWrite(); j.y.CloseWrite() }, finished, finished, nil, false},
	{"x resets", nil, func(j *joined) { j.x.Reset(nil) }, aborted, aborted, forward.ErrReset, false},
	{"y resets", nil, func(j *joined) { j.y.Reset(nil) }, aborted, aborted, forward.ErrReset, false},
	{"x closes before the end", nil, func(j *joined) { j.x.Close() }, aborted, aborted, forward.ErrReset, false},
	{"y closes before the end", nil, func(j *joined) { j.y.Close() }, aborted, aborted, forward.ErrReset, false},
	{"x finishes, y resets", nil, func(j *joined) {
		j.x.CloseWrite()
		readToEnd(j.y)
		j.y.Reset(nil)
	}, aborted, either, forward.ErrReset, false},
	{"x finishes, then resets", nil, func(j *joined) {
		j.x.CloseWrite()
		readToEnd(j.y)
		j.x.Reset(nil)
	}, aborted, either, forward.ErrReset, true},
	{"x finishes, then resets, unwatched", onA(failing{}), func(j *joined) {
		j.x.CloseWrite()
		readToEnd(j.y)
		j.x.Reset(nil)
		for { // only a write can find out
			if _, err := j.y.Write([]byte("x")); err != nil {
				return
			}
		}
	}, aborted, either, forward.ErrReset, false},
	{"x finishes, then closes early", nil, func(j *joined) {
		j.x.CloseWrite()
		readToEnd(j.y)
		j.x.Close()
	}, aborted, either, forward.ErrReset, true},
	{"canceled", nil, func(j *joined) { j.cancel(errOnPurpose) }, aborted, aborted, errOnPurpose, false},
	{"canceled after x finished", nil, func(j *joined) {
		j.x.CloseWrite()
		readToEnd(j.y)
		j.cancel(errOnPurpose)
	}, aborted, either, errOnPurpose, false},
	{"read of a fails", onA(failing{read: errOnPurpose}), func(*joined) {}, aborted, aborted, errOnPurpose, false},
	{"read of b fails", onB(failing{read: errOnPurpose}), func(*joined) {}, aborted, aborted, errOnPurpose, false},
	{"read of a is cut short", onA(failing{read: io.ErrUnexpectedEOF}), func(*joined) {}, aborted, aborted, io.ErrUnexpectedEOF, false},
	{"read of a fails with a wrapped end", onA(failing{read: errWrappedEOF}), func(*joined) {}, aborted, aborted, errWrappedEOF, false},
	{"write to a fails", onA(failing{write: errOnPurpose}), func(j *joined) { j.y.Write([]byte("x")) }, aborted, aborted, errOnPurpose, false},
	{"write to b fails", onB(failing{write: errOnPurpose}), func(j *joined) { j.x.Write([]byte("x")) }, aborted, aborted, errOnPurpose, false},
	{"write to b is short", onB(failing{short: true}), func(j *joined) { j.x.Write([]byte("xyz")) }, aborted, aborted, io.ErrShortWrite, false},
	{"write to b fails after y finished", onB(failing{write: errOnPurpose}), func(j *joined) {
		j.y.CloseWrite()
		readToEnd(j.x)
		j.x.Write([]byte("x"))
	}, finished, aborted, errOnPurpose, false},
	{"finishing b fails", onB(failing{finish: errOnPurpose}), func(j *joined) { j.x.CloseWrite() }, aborted, aborted, errOnPurpose, false},
	{"reads of a bring nothing", onA(failing{empty: true}), func(*joined) {}, aborted, aborted, io.ErrNoProgress, false},
	// b turns out to be gone when it is to be finished: what it sent before decides.
	{"finishing b finds it reset, y had finished", onB(failing{finish: forward.ErrReset}), func(j *joined) {
		j.y.CloseWrite()
		readToEnd(j.x)
		j.x.CloseWrite()
	}, finished, aborted, nil, false},
	{"finishing b finds it reset, then y resets", onB(failing{finish: forward.ErrReset}), func(j *joined) {
		j.x.CloseWrite()
		j.y.Reset(nil)
	}, aborted, aborted, forward.ErrReset, false},
}

var errWrappedEOF = errors.Join(errors.New("read header"), io.EOF)

// failing is a Conn of which one step fails. It hides the optional parts: the plain path is as good.
type failing struct {
	forward.Conn
	read, write, finish error
	short, empty        bool
}

func onA(f failing) func(a, b forward.Conn) (forward.Conn, forward.Conn) {
	return func(a, b forward.Conn) (forward.Conn, forward.Conn) { f := f; f.Conn = a; return f, b }
}

func onB(f failing) func(a, b forward.Conn) (forward.Conn, forward.Conn) {
	return func(a, b forward.Conn) (forward.Conn, forward.Conn) { f := f; f.Conn = b; return a, f }
}

func (f failing) Read(p []byte) (int, error) {
	if f.read != nil || f.empty {
		return 0, f.read
	}
	return f.Conn.Read(p)
}

func (f failing) Write(p []byte) (int, error) {
	if f.short {
		return f.Conn.Write(p[:1])
	}
	if f.write != nil {
		return 0, f.write
	}
	return f.Conn.Write(p)
}

func (f failing) CloseWrite() error {
	if f.finish != nil {
		return f.finish
	}
	return f.Conn.CloseWrite()
}

func TestJoinEndings(t *testing.T) {
	plain := func() (a, b forward.Conn, stop func(), err error) {
		a, b, _, err = memPair()
		return bare{a}, bare{b}, nil, err
	}
	kinds := []struct {
		name string
		mk   func() (a, b forward.Conn, stop func(), err error)
	}{{"tcp", connPair}, {"memory", memPair}, {"plain", plain}}
	for _, ka := range kinds {
		for _, kb := range kinds {
			t.Run(ka.name+"-"+kb.name, func(t *testing.T) {
				for _, tt := range endings {
					if tt.watch && ka.name == "plain" {
						continue // it is no AbortWaiter
					}
					t.Run(tt.name, func(t *testing.T) {
						j := start(t, ka.mk, kb.mk, tt.spoil)
						tt.act(j)
						if x := readToEnd(j.x); x != tt.x {
							t.Errorf("x sees %v, want %v", x, tt.x)
						}
						if y := readToEnd(j.y); y != tt.y && tt.y != either {
							t.Errorf("y sees %v, want %v", y, tt.y)
						}
						if r := <-j.result; !errors.Is(r.err, tt.err) {
							t.Errorf("Join: %v, want %v", r.err, tt.err)
						} else if errors.Is(r.err, net.ErrClosed) && tt.err == errOnPurpose {
							t.Errorf("Join returns an echo: %v", r.err)
						}
					})
				}
			})
		}
	}
}

// The answer that arrived before the reset is delivered, although the rest of the question found nobody.
func TestJoinEarlyAnswer(t *testing.T) {
	j := start(t, connPair, connPair, nil)
	if _, err := j.y.Write([]byte("413 too large")); err != nil {
		t.Fatal(err)
	}
	j.y.CloseWrite()
	got, err := io.ReadAll(j.x)
	if string(got) != "413 too large" || err != nil {
		t.Errorf("x read %q, %v", got, err)
	}
	j.y.Reset(nil)
	j.x.CloseWrite()
	// Whether the pod's reset or the end came first is for the network to say; neither may hang.
	if r := <-j.result; r.err != nil && !errors.Is(r.err, forward.ErrReset) {
		t.Errorf("Join: %v", r.err)
	}
}
