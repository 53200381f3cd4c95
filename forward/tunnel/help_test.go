package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// patience is how long anything here may take before it counts as hanging.
const patience = 30 * time.Second

// await returns what comes from ch, and fails the test with all stacks if
// nothing does.
func await[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		stacks := make([]byte, 1<<18)
		t.Fatalf("%s: hangs\n%s", what, stacks[:runtime.Stack(stacks, true)])
		panic("unreachable")
	}
}

// result runs f and returns where its error will come.
func result(f func() error) <-chan error {
	ch := make(chan error, 1)
	go func() { ch <- f() }()
	return ch
}

// eventually waits for cond.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
	}
}

// bubble runs f with fake time. yamux keeps timers in a pool, and a timer must
// not cross into or out of a bubble: two collections empty every sync.Pool.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	empty := func() {
		runtime.GC()
		runtime.GC()
	}
	empty()
	defer empty() // after a failure too
	synctest.Test(t, f)
}

// pipeSessions returns two sessions over net.Pipe, wrapped as the caller likes.
func pipeSessions(t testing.TB, cfg Config, wrap func(net.Conn) net.Conn) (client, server *Session) {
	t.Helper()
	a, b := net.Pipe()
	if wrap != nil {
		return sessions(t, Plain(wrap(a)), Plain(wrap(b)), cfg)
	}
	return sessions(t, Plain(a), Plain(b), cfg)
}

// noise is what pattern repeats; its length is prime, so that no shift by a
// buffer or a frame goes unseen.
var noise = sync.OnceValue(func() []byte {
	p := make([]byte, 1<<20-3)
	rand.NewChaCha8([32]byte{}).Read(p)
	return p
})

// pattern is an endless sequence: p is filled with what stands at byte at.
func pattern(at int64, p []byte) {
	for len(p) > 0 {
		n := copy(p, noise()[at%int64(len(noise())):])
		p, at = p[n:], at+int64(n)
	}
}

// source writes the pattern, n bytes of it or for ever if n is negative.
func source(w io.Writer, n int64) error {
	p := make([]byte, 40000)
	for at := int64(0); n < 0 || at < n; {
		b := p
		if n >= 0 {
			b = p[:min(int64(len(p)), n-at)]
		}
		pattern(at, b)
		m, err := w.Write(b)
		at += int64(m)
		if err != nil {
			return err
		}
	}
	return nil
}

// sink reads the pattern to its end, calls at after every read with the bytes
// so far, and returns how many came and what ended them.
func sink(r io.Reader, at func(int64)) (int64, error) {
	p, want := make([]byte, 50000), make([]byte, 50000)
	total := int64(0)
	for {
		n, err := r.Read(p)
		pattern(total, want[:n])
		if !bytes.Equal(p[:n], want[:n]) {
			return total, fmt.Errorf("bytes %d to %d are not those sent", total, total+int64(n))
		}
		total += int64(n)
		if at != nil {
			at(total)
		}
		if err != nil {
			return total, err
		}
	}
}

// lost checks that an error says that the session broke.
func lost(t testing.TB, who string, err error) {
	t.Helper()
	if !errors.Is(err, ErrLost) || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		t.Errorf("%s: got %v, want an error that is ErrLost and an unexpected end", who, err)
	}
}

// echoes proves that a session still carries streams.
func echoes(t testing.TB, client, server *Session) {
	t.Helper()
	a, b := streams(t, client, server)
	defer a.Close()
	defer b.Close()
	got := make([]byte, 5)
	err := await(t, "echo", result(func() error {
		if _, err := a.Write([]byte("hello")); err != nil {
			return err
		}
		if _, err := io.ReadFull(b, got); err != nil {
			return err
		}
		if _, err := b.Write(got); err != nil {
			return err
		}
		_, err := io.ReadFull(a, got)
		return err
	}))
	if err != nil || string(got) != "hello" {
		t.Fatalf("the session does not work: %q, %v", got, err)
	}
}

// empty waits until no stream is left in either table of a session.
func empty(t testing.TB, who string, s *Session) {
	t.Helper()
	eventually(t, who+": no stream left", func() bool { return s.NumStreams() == 0 && s.mux.NumStreams() == 0 })
}

// rawPeer is a peer of a session that does with frames as it likes.
type rawPeer struct {
	net.Conn
	t testing.TB

	mu     sync.Mutex
	frames [][muxHeader]byte
	eof    chan struct{}
}

// withRawPeer starts a session (the accepting end) and a peer without one.
func withRawPeer(t testing.TB, cfg Config) (*Session, *rawPeer) {
	t.Helper()
	a, b := tcpPair(t)
	s, err := NewSession(Plain(b), false, cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := &rawPeer{Conn: a, t: t, eof: make(chan struct{})}
	go p.listen()
	t.Cleanup(func() { a.Close(); s.Close(); <-p.eof })
	return s, p
}

func (p *rawPeer) listen() {
	defer close(p.eof)
	for {
		var h [muxHeader]byte
		if _, err := io.ReadFull(p.Conn, h[:]); err != nil {
			return
		}
		if h[1] == typeData {
			if _, err := io.CopyN(io.Discard, p.Conn, int64(binary.BigEndian.Uint32(h[8:]))); err != nil {
				return
			}
		}
		p.mu.Lock()
		p.frames = append(p.frames, h)
		p.mu.Unlock()
	}
}

// count returns how many frames came with the type and all of the flags.
func (p *rawPeer) count(typ byte, flags uint16) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.frames {
		if h[1] == typ && binary.BigEndian.Uint16(h[2:])&flags == flags {
			n++
		}
	}
	return n
}

func (p *rawPeer) send(typ byte, flags uint16, id, value uint32, body ...byte) {
	p.Conn.SetWriteDeadline(time.Now().Add(patience))
	_, _ = p.Conn.Write(append(muxControl(typ, flags, id, value), body...)) // the session may have hung up
}

func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// halt makes the peer neither read nor write any more.
func (p *rawPeer) halt() { p.Conn.SetReadDeadline(time.Unix(1, 0)) }

// relayed is one direction of a stream passed on the way a relay does it, pushing
// what it can. It ends with the source.
func relayed(src, dst *Stream) <-chan error {
	return result(func() error {
		for {
			p, err := src.ReadPieces(dst.TryWrite)
			if err != nil {
				return err
			}
			_, err = dst.WritePieces(&p)
			p.Release()
			if err != nil {
				return err
			}
		}
	})
}
