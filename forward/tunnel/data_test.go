package tunnel

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward"
)

// accepted is a stream that a raw peer opened.
func accepted(t *testing.T, s *Session, p *rawPeer, id uint32) *Stream {
	t.Helper()
	p.send(typeWindow, flagSYN, id, 0)
	st, err := s.Accept(background(t))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// What follows a SYN in the same packet is there when Accept returns.
func TestDataOvertakesAccept(t *testing.T) {
	s, p := withRawPeer(t, Config{})
	p.Conn.Write(bytes.Join([][]byte{
		muxControl(typeData, flagSYN, 1, 2), []byte("ab"), muxControl(typeData, flagFIN, 1, 2), []byte("cd"),
		muxControl(typeWindow, flagSYN, 3, 0), muxControl(typeData, 0, 3, 1), []byte("x"), muxControl(typeWindow, flagRST, 3, 0),
		muxControl(typeWindow, flagSYN, 5, 0), muxControl(typeWindow, flagFIN, 5, 0),
	}, nil))
	for i, want := range []struct {
		data string
		err  error
	}{{"abcd", nil}, {"", forward.ErrReset}, {"", nil}} {
		st, err := s.Accept(background(t))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(st)
		if string(got) != want.data || !errors.Is(err, want.err) {
			t.Errorf("stream %d: %q, %v", i, got, err)
		}
		st.Close()
	}
	empty(t, "session", s)
}

func TestDataForNobodyIsDropped(t *testing.T) {
	s, p := withRawPeer(t, Config{})
	for _, id := range []uint32{1, 2, 0, 1 << 31} { // 1 is opened later, 2 is not the peer's to open
		p.send(typeData, 0, id, 5, []byte("early")...)
		p.send(typeData, flagFIN, id, 5, []byte("early")...)
	}
	st := accepted(t, s, p, 1)
	p.send(typeData, flagFIN, 1, 4, []byte("late")...)
	if got, err := io.ReadAll(st); string(got) != "late" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestDataAfterTheEndIsNotRead(t *testing.T) {
	s, p := withRawPeer(t, Config{Window: minWindow})
	st := accepted(t, s, p, 1)
	p.send(typeData, flagFIN, 1, 3, []byte("all")...)
	p.send(typeData, 0, 1, 4, []byte("more")...)
	if got, err := io.ReadAll(st); string(got) != "all" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := st.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
	for range 10 { // what nobody reads is not given credit for
		p.send(typeData, 0, 1, minWindow/8, make([]byte, minWindow/8)...)
	}
	await(t, "end of a session whose peer goes on", s.Done())
}

// A peer may use its credit to the last byte, and not go one beyond it.
func TestCreditIsKeptTo(t *testing.T) {
	s, p := withRawPeer(t, Config{Window: minWindow})
	st := accepted(t, s, p, 1)
	sent := 0
	for range 5 {
		n := minWindow + p.granted(1) - sent
		for left := n; left > 0; left -= min(left, 20000) {
			p.send(typeData, 0, 1, uint32(min(left, 20000)), make([]byte, min(left, 20000))...)
		}
		sent += n
		if _, err := io.CopyN(io.Discard, st, int64(n)); err != nil {
			t.Fatal(err, s.Err())
		}
		eventually(t, "credit for what was read", func() bool { return minWindow+p.granted(1)-sent > minWindow*3/4 }) // a quarter may be held back
	}
	n := minWindow + p.granted(1) - sent
	p.send(typeData, 0, 1, uint32(n), make([]byte, n)...)
	p.send(typeData, 0, 1, 1, 'x')
	await(t, "end", s.Done())
	if !errors.Is(s.Err(), errOverrun) {
		t.Error(s.Err())
	}
}

// granted returns the credit that the peer was given for a stream, beyond what it
// begins with.
func (p *rawPeer) granted(id uint32) (sum int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.frames {
		if f := parseHeader(h[:]); f.typ == typeWindow && f.id == id {
			sum += int(f.value)
		}
	}
	return sum
}

func TestCreditBeyondCountingIsNoTrouble(t *testing.T) {
	s, p := withRawPeer(t, Config{})
	st := accepted(t, s, p, 1)
	for range 5 {
		p.send(typeWindow, 0, 1, 1<<32-1)
	}
	p.send(typeData, 0, 1, 1, 'x') // those before it have been seen then
	if _, err := st.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "write", result(func() error { return source(st, 4<<20) })); err != nil {
		t.Error(err)
	}
	if s.Err() != nil {
		t.Error(s.Err())
	}
}

func TestFramesOfNothingCostNothing(t *testing.T) {
	s, p := withRawPeer(t, Config{})
	st := accepted(t, s, p, 1)
	nothing := bytes.Repeat(muxControl(typeData, 0, 1, 0), 1000)
	nothing = append(nothing, bytes.Repeat(muxControl(typeWindow, 0, 1, 0), 1000)...)
	flood := result(func() error {
		for range 500 { // a million frames
			if _, err := p.Conn.Write(nothing); err != nil {
				return err
			}
		}
		p.send(typeData, 0, 1, 5, []byte("hello")...)
		return nil
	})
	got := make([]byte, 5)
	if _, err := io.ReadFull(st, got); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if err := await(t, "flood", flood); err != nil || s.Err() != nil {
		t.Error(err, s.Err())
	}
}

func TestPeerMayNotOpenOurStreams(t *testing.T) {
	for _, id := range []uint32{0, 2, 1 << 20} {
		s, p := withRawPeer(t, Config{})
		p.send(typeWindow, flagSYN, id, 0)
		await(t, "end", s.Done())
		if !errors.Is(s.Err(), errMuxFault) {
			t.Error(s.Err())
		}
	}
}

func TestFloodOfOpensIsBounded(t *testing.T) {
	s, p := withRawPeer(t, Config{MaxStreams: 10})
	const flood = 1000
	for i := range uint32(flood) {
		p.send(typeWindow, flagSYN, 2*i+1, 0)
		p.send(typeData, 0, 2*i+1, 100, make([]byte, 100)...)
	}
	eventually(t, "resets", func() bool { return p.count(typeWindow, flagRST) == flood-10 })
	if n, m := s.NumStreams(), s.mux.NumStreams(); n != 10 || m != 10 {
		t.Errorf("%d and %d streams", n, m)
	}
	for range 10 {
		st, err := s.Accept(background(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(st, make([]byte, 100)); err != nil {
			t.Error(err)
		}
		st.Reset()
	}
	st := accepted(t, s, p, 2*flood+1)
	st.Reset()
}

// What a peer sends to a stream that was closed here gets credit, so that it can
// come to its end by itself.
func TestClosedStreamTakesWhatStillComes(t *testing.T) {
	client, server := tlsSessions(t, Config{Linger: time.Hour})
	a, b := streams(t, client, server)
	a.Close()
	if err := await(t, "write", result(func() error { return source(b, 20<<20) })); err != nil {
		t.Fatal(err)
	}
	b.Close()
	empty(t, "client", client)
	empty(t, "server", server)
}

// However small the pieces are that come in, what waits to be read takes little
// more than its own size, and nothing once it was read.
func TestUnreadBytesTakeNoMoreThanTwiceTheirRoom(t *testing.T) {
	for _, piece := range []int{1, 100, smallChunk + 1, bigChunk/2 - 1, bigChunk / 2, muxFrame - 1, muxFrame} {
		q := inbox{mem: new(Memory)}
		const total = 1 << 20
		for q.size < total {
			c := q.mem.lend(bigChunk)
			c.w = c.r + piece
			if !q.take(c) {
				q.put(c.rest())
			}
			if q.size%3 == 0 {
				q.put([]byte{1})
			}
		}
		held := 0
		for c := q.head; c != nil; c = c.next {
			held += len(c.buf)
		}
		if held > 2*q.size+bigChunk {
			t.Errorf("pieces of %d: %d bytes take %d", piece, q.size, held)
		}
		for q.size > 0 {
			q.read(make([]byte, 5000))
		}
		if q.head != nil || q.tail != nil {
			t.Error("something is held for nothing")
		}
	}
}

func TestDataAllocatesNothing(t *testing.T) {
	client, server := plainSessions(t, Config{})
	a, b := streams(t, client, server)
	p := make([]byte, 1000)
	echo := result(func() error {
		q := make([]byte, len(p))
		for {
			if _, err := io.ReadFull(b, q); err != nil {
				return err
			}
			if _, err := b.Write(q); err != nil {
				return err
			}
		}
	})
	n := testing.AllocsPerRun(2000, func() {
		if _, err := a.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(a, p); err != nil {
			t.Fatal(err)
		}
	})
	if n > 1 { // the race detector empties pools at random
		t.Errorf("%v allocations there and back", n)
	}
	a.Reset()
	if err := await(t, "echo", echo); !errors.Is(err, forward.ErrReset) {
		t.Error(err)
	}
}
