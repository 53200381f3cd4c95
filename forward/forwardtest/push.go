package forwardtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"

	"github.com/culvert-k8s/culvert/forward"
)

// pushCases are the contracts of forward.PushReader and forward.TryWriter; skipped if the Conn is none.
var pushCases = []testCase{
	{"push: bytes come in order, whoever carries them", pushInOrder},
	{"push: own reset", func(a, b forward.Conn) error { return pushReset(a, b, b) }},
	{"push: reset by the peer", func(a, b forward.Conn) error { return pushReset(a, b, a) }},
	{"try: takes what it can and never waits", tryFills},
	{"try: after finish", func(a, _ forward.Conn) error {
		w, ok := a.(forward.TryWriter)
		if !ok {
			return fmt.Errorf("TryWriter: %w", errNotOffered)
		}
		if err := finishWrite(a); err != nil {
			return err
		}
		if n := w.TryWrite([]byte("x")); n != 0 {
			return fmt.Errorf("took %d bytes after finish", n)
		}
		return nil
	}},
}

// pusher takes a random part of what is pushed to it.
type pusher struct {
	rng    *rand.Rand
	got    bytes.Buffer
	inside atomic.Int32
	wrong  atomic.Bool // called while no ReadPush runs, or twice at once
	reads  atomic.Bool // a ReadPush runs
	pushed int
}

func (p *pusher) push(b []byte) int {
	if p.inside.Add(1) != 1 || !p.reads.Load() {
		p.wrong.Store(true)
	}
	n := p.rng.IntN(len(b) + 1)
	if p.rng.IntN(3) > 0 {
		n = len(b)
	}
	p.got.Write(b[:n])
	p.pushed += n
	fill(b[:n], 0xee)
	p.inside.Add(-1)
	return n
}

func pushInOrder(a, b forward.Conn) error {
	r, ok := b.(forward.PushReader)
	if !ok {
		return fmt.Errorf("PushReader: %w", errNotOffered)
	}
	rng := rand.New(rand.NewPCG(7, 7))
	want := make([]byte, 0, 1<<20)
	p := &pusher{rng: rand.New(rand.NewPCG(8, 8))}
	return both(a, b,
		func() error {
			for i := range 400 {
				piece := make([]byte, 1+rng.IntN(2000))
				if i%50 == 0 {
					piece = make([]byte, 30_000)
				}
				for j := range piece {
					piece[j] = byte(rng.Uint32())
				}
				want = append(want, piece...)
				if err := send(a, bytes.Clone(piece), false); err != nil {
					return err
				}
				if i%20 == 0 {
					settle()
				}
			}
			return finishWrite(a)
		},
		func() error {
			l := &ledger{buf: make([]byte, 5000)}
			for {
				p.reads.Store(true)
				n, err := r.ReadPush(l.borrow, l.release, p.push)
				p.reads.Store(false)
				p.got.Write(l.buf[:n])
				l.out.Store(0)
				if err == io.EOF {
					break
				}
				if err != nil {
					return err
				}
			}
			if p.wrong.Load() || l.wrong.Load() {
				return errors.New("push, borrow or release is called when it must not be")
			}
			if !bytes.Equal(p.got.Bytes(), want) {
				return fmt.Errorf("got %d bytes, %d of them pushed, want the %d written", p.got.Len(), p.pushed, len(want))
			}
			return nil
		})
}

func pushReset(_, b, by forward.Conn) error {
	r, ok := b.(forward.PushReader)
	if !ok {
		return fmt.Errorf("PushReader: %w", errNotOffered)
	}
	read := make(chan error, 1)
	go func() {
		l := &ledger{buf: make([]byte, 100)}
		_, err := r.ReadPush(l.borrow, l.release, func(b []byte) int { return len(b) })
		if l.out.Load() != 0 {
			err = errors.New("a buffer is still out")
		}
		read <- err
	}()
	settle()
	if err := by.Reset(errOnPurpose); err != nil {
		return err
	}
	if err := <-read; err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("read after the reset: %v", err)
	}
	return nil
}

// tryFills writes until no more is taken, and the rest the other way.
func tryFills(a, b forward.Conn) error {
	w, ok := a.(forward.TryWriter)
	if !ok {
		return fmt.Errorf("TryWriter: %w", errNotOffered)
	}
	const size = 64 << 20 // more than any system keeps for a peer that does not read
	piece := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	sent := 0
	for sent < size {
		n := w.TryWrite(piece)
		sent += n
		if n < len(piece) {
			if m := w.TryWrite(piece[n:]); m > len(piece)-n {
				return fmt.Errorf("took %d of %d bytes", m, len(piece)-n)
			} else if n += m; m > 0 {
				sent += m
			}
			piece = piece[n:]
			break
		}
	}
	if sent >= size {
		return errors.New("takes without bounds what nobody reads")
	}
	return both(a, b,
		func() error { return send(a, piece, true) },
		func() error {
			got, err := io.Copy(io.Discard, b)
			if want := int64(sent + len(piece)); err != nil || got != want {
				return fmt.Errorf("%d bytes came of %d: %w", got, want, err)
			}
			return nil
		})
}
