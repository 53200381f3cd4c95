package forwardtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/culvert-k8s/culvert/forward"
)

// waitCases are the contract of forward.AbortWaiter; skipped if the Conn is none. In all of them b has finished and
// a has read that.
var waitCases = []testCase{
	{"wait: reset by the peer", func(a, b forward.Conn) error { return waitAborted(a, b, b) }},
	{"wait: own reset", func(a, b forward.Conn) error { return waitAborted(a, b, a) }},
	{"wait: reset before", func(a, b forward.Conn) error {
		w, err := afterEOF(a, b)
		if err != nil {
			return err
		}
		_ = b.Reset(errOnPurpose)
		return wantAbort(w.WaitAbort())
	}},
	{"wait: reset while writing", waitWhileWriting},
	{"wait: closed after both ends", waitClosed},
}

// afterEOF lets b finish and a read it.
func afterEOF(a, b forward.Conn) (forward.AbortWaiter, error) {
	w, ok := a.(forward.AbortWaiter)
	if !ok {
		return nil, fmt.Errorf("AbortWaiter: %w", errNotOffered)
	}
	if err := finishWrite(b); err != nil {
		return nil, err
	}
	return w, expectEOF(a)
}

func wantAbort(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for an abort that came: %v", err)
	}
	return nil
}

func waitAborted(a, b, resets forward.Conn) error {
	w, err := afterEOF(a, b)
	if err != nil {
		return err
	}
	return both(a, b,
		func() error { return wantAbort(w.WaitAbort()) },
		func() error { settle(); return resets.Reset(errOnPurpose) })
}

// waitWhileWriting: what is written meanwhile wakes nobody, and the reset reaches both, the blocked writer and
// who waits.
func waitWhileWriting(a, b forward.Conn) error {
	w, err := afterEOF(a, b)
	if err != nil {
		return err
	}
	use := func() error {
		return both(a, b,
			func() error { return wantAbort(w.WaitAbort()) },
			func() error { return writeAbort(a) })
	}
	return both(a, b, use, func() error {
		if _, err := io.ReadFull(b, make([]byte, 1<<20)); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		settle()
		return b.Reset(errOnPurpose)
	})
}

// waitClosed: a stream that ends well is no abort, and Close frees who waits.
func waitClosed(a, b forward.Conn) error {
	w, err := afterEOF(a, b)
	if err != nil {
		return err
	}
	want := bytes.Repeat([]byte("the answer "), 20_000)
	use := func() error {
		return both(a, b,
			func() error {
				if err := w.WaitAbort(); err != nil {
					return fmt.Errorf("wait for an abort that never came: %w", err)
				}
				return nil
			},
			func() error {
				if err := send(a, want, true); err != nil {
					return err
				}
				settle()
				return a.Close()
			})
	}
	return both(a, b, use, func() error { return errors.Join(expect(b, want), expectEOF(b)) })
}
