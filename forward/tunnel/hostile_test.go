package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward"
)

func TestBrokenProtocolEndsTheSession(t *testing.T) {
	for name, attack := range map[string]func(*rawPeer){
		"garbage":        func(p *rawPeer) { p.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 10)) },
		"unknown type":   func(p *rawPeer) { p.send(9, 0, 1, 0) },
		"error go-away":  func(p *rawPeer) { p.send(typeGoAway, 0, 0, 1) },
		"opened twice":   func(p *rawPeer) { p.send(typeWindow, flagSYN, 1, 0); p.send(typeWindow, flagSYN, 1, 0) },
		"finished twice": func(p *rawPeer) { p.send(typeWindow, flagSYN|flagFIN, 1, 0); p.send(typeWindow, flagFIN, 1, 0) },
		"beyond credit":  func(p *rawPeer) { p.send(typeData, flagSYN, 1, 64<<20, make([]byte, 100)...) },
		"flood of pings": func(p *rawPeer) {
			for i := range 10 * pingBurst {
				p.send(typePing, flagSYN, 0, uint32(i))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := withRawPeer(t, Config{DeadAfter: time.Hour}) // it must not end for silence
			accept := result(func() error {
				for {
					if _, err := s.Accept(background(t)); err != nil {
						return err
					}
				}
			})
			attack(p)
			await(t, "end of session", s.Done())
			lost(t, "session", s.Err())
			lost(t, "accept", await(t, "accept", accept))
		})
	}
}

func TestOrdinaryPingsAreAnswered(t *testing.T) {
	s, p := withRawPeer(t, Config{})
	for i := range pingBurst / 2 {
		p.send(typePing, flagSYN, 0, uint32(i))
	}
	eventually(t, "answers", func() bool { return p.count(typePing, flagACK) == pingBurst/2 })
	if s.Err() != nil {
		t.Error(s.Err())
	}
}

func TestStrayFramesHurtNobody(t *testing.T) {
	s, p := withRawPeer(t, Config{})
	p.send(typeWindow, flagSYN, 1, 0)
	st, err := s.Accept(background(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []uint32{0, 2, 7, 1 << 31} { // none of them is open
		p.send(typeWindow, flagRST, id, 0)
		p.send(typeWindow, flagFIN, id, 0)
		p.send(typeWindow, flagACK, id, 1)
		p.send(typeData, 0, id, 5, []byte("stray")...)
		p.send(typePing, flagACK, id, 99)
	}
	p.send(typeWindow, 0, 1, 1<<32-1) // more credit than fits
	p.send(typeWindow, flagACK, 1, 1<<32-1)
	p.send(typeWindow, flagACK, 1, 0)
	p.send(typeData, 0, 1, 5, []byte("hello")...)
	got := make([]byte, 5)
	if _, err := io.ReadFull(st, got); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v; session: %v", got, err, s.Err())
	}
}

func TestPeerThatNeverAcknowledges(t *testing.T) {
	a, b := tcpPair(t)
	s, err := NewSession(Plain(a), true, Config{MaxStreams: 50, Linger: 20 * time.Millisecond, PingAfter: 50 * time.Millisecond, DeadAfter: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	p := &rawPeer{Conn: b, t: t, eof: make(chan struct{})}
	go p.listen()
	t.Cleanup(func() { b.Close(); s.Close(); <-p.eof })
	for round := range 5 {
		for i := range 50 {
			st, err := s.Open(background(t))
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if i%2 == 0 {
				st.Reset()
			} else {
				st.Close()
			}
		}
		p.send(typePing, flagACK, 0, 0) // some life
		eventually(t, "streams given up", func() bool {
			p.send(typePing, flagACK, 0, 0)
			return s.NumStreams() == 0 && s.mux.NumStreams() == 0
		})
	}
	eventually(t, "resets at the peer", func() bool { return p.count(typeWindow, flagRST) == 250 })
}

func TestPeerResetsAStream(t *testing.T) {
	s, p := withRawPeer(t, Config{})
	p.send(typeWindow, flagSYN, 1, 0)
	st, err := s.Accept(background(t))
	if err != nil {
		t.Fatal(err)
	}
	read := result(func() error { _, err := st.Read(make([]byte, 1)); return err })
	p.send(typeWindow, flagRST, 1, 0)
	if err := await(t, "read", read); !errors.Is(err, forward.ErrReset) {
		t.Error(err)
	}
	st.Close()
	empty(t, "session", s)
}

// FuzzInbound gives a session whatever a peer may send.
func FuzzInbound(f *testing.F) {
	frame := func(typ byte, flags uint16, id, value uint32, body string) []byte {
		return append(muxControl(typ, flags, id, value), body...)
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(bytes.Join([][]byte{
		frame(typeWindow, flagSYN, 1, 0, ""), frame(typeData, 0, 1, 5, "hello"), frame(typeWindow, flagFIN, 1, 0, ""),
	}, nil))
	f.Add(bytes.Join([][]byte{
		frame(typeData, flagSYN|flagFIN, 3, 2, "hi"), frame(typeWindow, flagRST, 3, 0, ""), frame(typeWindow, flagACK, 3, 9, ""),
		frame(typePing, flagSYN, 0, 1, ""), frame(typePing, flagACK, 0, 7, ""), frame(typeGoAway, 0, 0, 0, ""),
	}, nil))
	f.Add(frame(typeData, flagSYN|flagACK|flagFIN|flagRST, 1, 1<<31, "x"))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, b := net.Pipe()
		s, err := NewSession(Plain(a), len(in)%2 == 0, Config{MaxStreams: 5})
		if err != nil {
			t.Fatal(err)
		}
		drained := result(func() error { _, err := io.Copy(io.Discard, b); return err })
		served := result(func() error {
			return s.Serve(context.Background(), func(st *Stream) {
				c := NewConn(st)
				io.Copy(io.Discard, c)
				c.Close()
			})
		})
		if st, err := s.Open(context.Background()); err == nil {
			go source(st, -1)
		}
		b.SetWriteDeadline(time.Now().Add(patience))
		b.Write(in)
		b.Close()
		await(t, "end", s.Done())
		lost(t, "serve", await(t, "serve", served))
		s.Close()
		await(t, "drain", drained)
	})
}

// chunks is a reader that gives out its bytes in pieces of the sizes given, squared:
// 1 byte to 64 KiB.
type chunks struct {
	data  []byte
	sizes []byte
	at    int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := len(c.data)
	if len(c.sizes) > 0 {
		n = int(c.sizes[c.at%len(c.sizes)])
		n = 1 + n*n
		c.at++
	}
	n = copy(p[:min(len(p), n)], c.data)
	c.data = c.data[n:]
	return n, nil
}

// FuzzFollow checks that however a session's bytes are cut into reads, each
// stream gets its own and yamux the control frames, with injected frames between.
func FuzzFollow(f *testing.F) {
	f.Add([]byte{0, 5, 1, 0, 0, 200, 2, 0, 3, 0}, []byte{0, 3, 11, 12, 200}, []byte{1, 0, 9})
	f.Add([]byte{0, 0, 0, 1, 0, 255}, []byte{}, []byte{0})
	f.Add([]byte{0, 255, 4, 255, 4, 255, 8, 255, 1, 3, 4, 255}, []byte{255}, []byte{0})
	f.Fuzz(func(t *testing.T, shape, sizes, injections []byte) {
		h := newHearing()
		wire, control, data := h.play(shape)
		in := newInbound(&chunks{data: bytes.Clone(wire), sizes: sizes}, h, new(Memory))
		const mark = 0xfeedface
		var out []byte
		sent := 0
		buf := make([]byte, 300)
		for i := 0; ; i++ {
			if sent < 50 && len(injections) > 0 && injections[i%len(injections)]%4 == 1 {
				in.inject(muxControl(typeWindow, flagRST, mark, 0))
				sent++
			}
			n, err := in.Read(buf[:1+(i*37)%len(buf)])
			out = append(out, buf[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if i > 100*(len(wire)+100) {
				t.Fatal("no end")
			}
		}
		rest, found, err := without(out, mark)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(rest, control) {
			t.Fatalf("%d bytes went on to yamux of %d, or others", len(rest), len(control))
		}
		if found > sent {
			t.Fatalf("%d frames injected, %d came out", sent, found)
		}
		for id, want := range data {
			st := h.streams[id]
			if st.in.box.size != len(want) {
				t.Fatalf("stream %d has %d bytes of %d", id, st.in.box.size, len(want))
			}
			got := make([]byte, 0, len(want))
			for p := make([]byte, 1000); len(got) < len(want); {
				n := st.consume(p[:1+len(got)%len(p)])
				got = append(got, p[:n]...)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("stream %d got other bytes than were sent", id)
			}
		}
	})
}

// hearing is a hearer with eight streams.
type hearing struct{ streams map[uint32]*Stream }

func newHearing() *hearing {
	rec := newRecordConn(&wire{})
	s := &Session{cfg: Config{}.withDefaults(), window: 64 << 20, out: newOutbound(rec, rec, func(error) {})}
	h := &hearing{streams: make(map[uint32]*Stream)}
	for id := range uint32(8) {
		h.streams[id] = newStream(s)
		h.streams[id].id = id
	}
	return h
}

func (h *hearing) opened(uint32) (bool, error) { return true, nil }
func (h *hearing) find(id uint32) *Stream      { return h.streams[id] }
func (h *hearing) pong()                       {}
func (h *hearing) broken(err error) error      { return err }

// play makes frames as shape says, and what has to come of them.
func (h *hearing) play(shape []byte) (wire, control []byte, data map[uint32][]byte) {
	data = make(map[uint32][]byte)
	for i := 0; i+1 < min(len(shape), 200); i += 2 {
		kind, size, id := shape[i]%3, shape[i+1], uint32(shape[i]/3)%10 // some are not known
		flags := []uint16{0, flagACK, flagSYN | flagACK}[int(size)%3]
		switch kind {
		case typeData:
			n := int(size) * 3
			if size > 200 {
				n = int(size-200) * 1000
			}
			body := make([]byte, n)
			pattern(int64(i)*1000, body)
			wire = append(append(wire, muxControl(typeData, flags, id, uint32(n))...), body...)
			if id < 8 {
				data[id] = append(data[id], body...)
			}
		case typeWindow:
			wire = append(wire, muxControl(typeWindow, flags, id, uint32(size))...)
		case typePing: // an answer: questions are counted
			ping := muxControl(typePing, flagACK, 0, uint32(i))
			wire, control, flags = append(wire, ping...), append(control, ping...), 0
		}
		if flags != 0 {
			control = append(control, muxControl(typeWindow, flags, id, 0)...)
		}
	}
	return wire, control, data
}

// without parses frames, takes those of stream mark out and counts them.
func without(b []byte, mark uint32) (rest []byte, found int, err error) {
	for len(b) > 0 {
		if len(b) < muxHeader {
			return rest, found, fmt.Errorf("%d bytes left", len(b))
		}
		n := muxHeader
		if b[1] == typeData {
			n += int(binary.BigEndian.Uint32(b[8:]))
		}
		if len(b) < n {
			return rest, found, fmt.Errorf("frame of %d bytes cut after %d", n, len(b))
		}
		if binary.BigEndian.Uint32(b[4:]) == mark {
			found++
		} else {
			rest = append(rest, b[:n]...)
		}
		b = b[n:]
	}
	return rest, found, nil
}
