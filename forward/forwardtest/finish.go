package forwardtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/culvert-k8s/culvert/forward"
)

// finishCases are about streams that end as they should.
var finishCases = []testCase{
	{"echo", echo},
	{"half-close in lock step", lockStep},
	{"data after half-close", dataAfterHalfClose},
	{"all data before the end", dataBeforeEnd},
	{"finish twice", finishTwice},
	{"write after finish", writeAfterFinish},
	{"close after both ends loses nothing", closeAfterEnds},
	{"close is idempotent", closeTwice},
	{"zero-length writes", zeroWrites},
}

// echo: b returns what it reads, and ends when a has ended.
func echo(a, b forward.Conn) error {
	want := bytes.Repeat([]byte("half a league "), 4000)
	serve := func() error {
		if _, err := io.Copy(struct{ io.Writer }{b}, struct{ io.Reader }{b}); err != nil {
			return fmt.Errorf("echo: %w", err)
		}
		return finishWrite(b)
	}
	return both(a, b, serve, func() error {
		return both(a, b,
			func() error { return send(a, want, true) },
			func() error { return errors.Join(expect(a, want), expectEOF(a)) })
	})
}

// lockStep: each side finishes once the other's bytes were read, and the ends show one at a time.
func lockStep(a, b forward.Conn) error {
	client := func() error {
		if err := send(a, []byte("question"), true); err != nil {
			return err
		}
		if err := expect(a, []byte("answer")); err != nil {
			return err
		}
		return expectEOF(a)
	}
	server := func() error {
		if err := expect(b, []byte("question")); err != nil {
			return err
		}
		if err := expectEOF(b); err != nil {
			return err
		}
		return send(b, []byte("answer"), true)
	}
	return both(a, b, client, server)
}

// dataAfterHalfClose: a finishes without a byte, and everything still comes back.
func dataAfterHalfClose(a, b forward.Conn) error {
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	if err := finishWrite(a); err != nil {
		return err
	}
	return both(a, b,
		func() error { return errors.Join(expect(a, want), expectEOF(a)) },
		func() error { return errors.Join(expectEOF(b), send(b, want, true)) })
}

// dataBeforeEnd: many small writes and then the end; the reader comes late and finds all of it.
func dataBeforeEnd(a, b forward.Conn) error {
	var want []byte
	for i := range 1000 {
		want = append(want, byte(i), byte(i>>8), byte(i*7))
	}
	write := func() error {
		for p := want; len(p) > 0; p = p[3:] {
			if err := send(a, p[:3], false); err != nil {
				return err
			}
		}
		return finishWrite(a)
	}
	return both(a, b, write, func() error { return errors.Join(expect(b, want), expectEOF(b)) })
}

func finishTwice(a, b forward.Conn) error {
	if err := errors.Join(finishWrite(a), finishWrite(a)); err != nil {
		return err
	}
	return both(a, b,
		func() error { return errors.Join(expectEOF(b), send(b, []byte("still here"), true)) },
		func() error { return errors.Join(expect(a, []byte("still here")), expectEOF(a)) })
}

func writeAfterFinish(a, b forward.Conn) error {
	if err := finishWrite(a); err != nil {
		return err
	}
	if _, err := a.Write([]byte("too late")); err == nil {
		return errors.New("write after finish worked")
	}
	// The caller's mistake must not cost the answer.
	return both(a, b,
		func() error { return errors.Join(expectEOF(b), send(b, []byte("answer"), true)) },
		func() error { return errors.Join(expect(a, []byte("answer")), expectEOF(a)) })
}

// closeAfterEnds: a has seen both ends and leaves; what it wrote is still on its way and arrives.
func closeAfterEnds(a, b forward.Conn) error {
	want := bytes.Repeat([]byte("last words "), 1000)
	if err := finishWrite(b); err != nil {
		return err
	}
	leave := func() error {
		if err := send(a, want, true); err != nil {
			return err
		}
		if err := expectEOF(a); err != nil {
			return err
		}
		if err := a.Close(); err != nil {
			return fmt.Errorf("close after both ends: %w", err)
		}
		if _, err := a.Read(make([]byte, 1)); err == nil {
			return errors.New("read after close worked")
		}
		return nil
	}
	return both(a, b, leave, func() error {
		if err := errors.Join(expect(b, want), expectEOF(b)); err != nil {
			return err
		}
		return b.Close()
	})
}

func closeTwice(a, b forward.Conn) error {
	first, second := a.Close(), a.Close()
	if first != nil || second != nil {
		return fmt.Errorf("close twice before the end: %v, %v", first, second)
	}
	if err := a.Reset(errors.New("after close")); err != nil {
		return fmt.Errorf("reset after close: %w", err)
	}
	if _, err := a.Write([]byte("x")); err == nil {
		return errors.New("write after close worked")
	}
	return nil
}

// zeroWrites: nothing is written, and nothing is what the peer sees of it.
func zeroWrites(a, b forward.Conn) error {
	write := func() error {
		for _, p := range [][]byte{nil, {}, []byte("x"), {}, []byte("y"), nil} {
			if err := send(a, p, false); err != nil {
				return err
			}
		}
		return finishWrite(a)
	}
	return both(a, b, write, func() error { return errors.Join(expect(b, []byte("xy")), expectEOF(b)) })
}
