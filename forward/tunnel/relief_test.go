package tunnel

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward"
)

// room is the Limit of these tests.
const room = 8 << 20

// guest starts a session with a peer that has a memory of its own.
func guest(t *testing.T, mem *Memory) (client, server *Session) {
	t.Helper()
	a, b := tcpPair(t)
	client, err := NewSession(Plain(a), true, Config{})
	if err != nil {
		t.Fatal(err)
	}
	server, err = NewSession(Plain(b), false, Config{Memory: mem})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// leave opens a stream and sends n bytes that nobody reads; without waiting, if they are
// more than the window.
func leave(t *testing.T, client, server *Session, n int64) *Stream {
	t.Helper()
	a, b := streams(t, client, server)
	fill(t, a, b, n)
	return b
}

func fill(t *testing.T, a, b *Stream, n int64) {
	t.Helper()
	if n <= minWindow {
		if err := source(a, n); err != nil {
			t.Fatal(err)
		}
		eventually(t, "bytes that nobody reads", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return int64(b.in.box.size) == n
		})
		return
	}
	wrote := result(func() error { return source(a, n) })
	t.Cleanup(func() { a.Reset(); await(t, "writer", wrote) })
}

// However many streams one fills and does not read, over however many sessions, it is
// he who is cut, and what others hold is safe, even if it is more than any session of
// his holds.
func TestWhoLetsMostLieIsCut(t *testing.T) {
	mem := &Memory{Limit: room}
	client, server := guest(t, mem)
	var innocent []*Stream
	for range 6 { // 1.5 MiB
		st := leave(t, client, server, minWindow)
		st.Charge("innocent", func() { t.Error("the innocent is cut") })
		innocent = append(innocent, st)
	}
	cut := make(chan *Stream, 100)
	for range 30 {
		client, server := guest(t, mem)
		for range 2 { // 1 MiB a session, 30 MiB in all
			a, b := streams(t, client, server)
			b.Charge("greedy", func() {
				cut <- b
				_ = b.Reset()
			})
			fill(t, a, b, 4*lanWindow)
		}
	}
	for range 40 {
		await(t, "a cut", cut)
	}
	eventually(t, "room", func() bool { return mem.Usage().Unread <= room })
	for _, st := range innocent {
		if n, err := sink(io.LimitReader(st, minWindow), nil); n != minWindow || err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("the innocent got %d bytes, %v", n, err)
		}
	}
	echoes(t, client, server)
	if u := mem.Usage(); u.Cut < 40 || u.Cut > 60 || u.UnreadLimit != room {
		t.Errorf("%+v", u)
	}
}

// Who is charged to nobody is on the account of his session, and is reset.
func TestUnchargedStreamsAreReset(t *testing.T) {
	mem := &Memory{Limit: room}
	client, server := guest(t, mem)
	quiet := leave(t, client, server, 100<<10)
	greedy, theirs := guest(t, mem)
	var all []*Stream
	for range 40 {
		all = append(all, leave(t, greedy, theirs, 4*lanWindow))
	}
	eventually(t, "cuts", func() bool { return mem.Usage().Cut > 0 })
	reset := 0
	for _, st := range all {
		if _, err := st.Write([]byte("x")); errors.Is(err, forward.ErrReset) {
			reset++
		}
	}
	if reset == 0 || theirs.Err() != nil {
		t.Errorf("%d streams are reset, session %v", reset, theirs.Err())
	}
	if _, err := io.ReadFull(quiet, make([]byte, 100<<10)); err != nil {
		t.Error(err)
	}
}

// What others hold for a stream counts, and is on its account.
func TestBuffersBesideCount(t *testing.T) {
	var beside atomic.Int64
	mem := &Memory{Limit: room, Beside: beside.Load}
	client, server := guest(t, mem)
	a, b := streams(t, client, server)
	cut := make(chan string, 2)
	b.Charge("reader", func() { cut <- "reader" })
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Read(make([]byte, room)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	_, w := streams(t, client, server)
	w.Charge("writer", func() { cut <- "writer" })
	wrote := result(func() error { _, err := w.Write(make([]byte, 2*room)); return err })
	eventually(t, "a writer without credit", func() bool { return mem.Usage().Waiting == 1 })
	if mem.relieve(); mem.Usage().Cut != 0 {
		t.Error("cut without need")
	}
	beside.Store(room + 1)
	mem.relieve()
	if first, second := <-cut, <-cut; first != "writer" || second != "reader" {
		t.Errorf("%s and then %s is cut", first, second)
	}
	mem.relieve()
	w.Reset()
	await(t, "writer", wrote)
}

// Windows that have grown shrink again while memory is short, and nothing is lost.
func TestWindowsShrink(t *testing.T) {
	mem := &Memory{Limit: room}
	client, server := guest(t, mem)
	a, b := streams(t, client, server)
	b.mu.Lock()
	b.in.window += 2 << 20
	b.in.grant += 2 << 20
	b.in.grown += 2 << 20
	b.mu.Unlock()
	if !mem.reserve(2 << 20) {
		t.Fatal("no room")
	}
	b.giveCredit(2 << 20)
	const n = 20 << 20
	wrote := result(func() error { defer a.CloseWrite(); return source(a, n) })
	mem.held.Add(room/2 + 1)
	if mem.reserve(1) {
		t.Error("windows grow")
	}
	if got, err := sink(b, nil); got != n || !errors.Is(err, io.EOF) {
		t.Errorf("%d bytes, %v", got, err)
	}
	await(t, "writer", wrote)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.in.window != lanWindow || b.in.grown != 0 || mem.Usage().Grown != 0 {
		t.Errorf("window of %d, grown by %d, %d in all", b.in.window, b.in.grown, mem.Usage().Grown)
	}
}

// Whatever becomes of what came in, it does not count for ever.
func TestNothingIsHeldInTheEnd(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, mem *Memory, client, server *Session){
		"read": func(t *testing.T, _ *Memory, client, server *Session) {
			b := leave(t, client, server, minWindow)
			if _, err := io.CopyN(io.Discard, b, minWindow); err != nil {
				t.Error(err)
			}
		},
		"in pieces": func(t *testing.T, _ *Memory, client, server *Session) {
			in, out := streams(t, client, server)
			far, near := guest(t, new(Memory))
			_, stuck := streams(t, far, near)
			passed := relayed(out, stuck)
			wrote := result(func() error { return source(in, 4<<20) })
			eventually(t, "a writer without credit", func() bool { return near.cfg.Memory.Usage().Waiting == 1 })
			stuck.Reset()
			out.Reset()
			await(t, "relay", passed)
			await(t, "writer", wrote)
		},
		"closed": func(t *testing.T, _ *Memory, client, server *Session) { leave(t, client, server, minWindow).Close() },
		"reset":  func(t *testing.T, _ *Memory, client, server *Session) { leave(t, client, server, minWindow).Reset() },
		"session lost": func(t *testing.T, _ *Memory, client, server *Session) {
			b := leave(t, client, server, minWindow)
			client.car.cut()
			await(t, "end", server.Done())
			b.Close()
		},
		"nobody accepts": func(t *testing.T, mem *Memory, client, server *Session) {
			for range 5 {
				st, err := client.Open(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				if err := source(st, minWindow); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "bytes", func() bool { return mem.Usage().Unread >= 5*minWindow })
			server.Close()
			if _, err := server.Accept(context.Background()); err == nil {
				t.Error("accepted after the end")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := new(Memory)
			client, server := guest(t, mem)
			end(t, mem, client, server)
			eventually(t, "nothing held", func() bool { return mem.Usage().Unread == 0 })
			time.Sleep(time.Millisecond)
			client.Close()
			server.Close()
			if n := mem.Usage().Unread; n != 0 || len(mem.relief.sessions) != 0 {
				t.Errorf("%d bytes held, %d sessions", n, len(mem.relief.sessions))
			}
		})
	}
}
