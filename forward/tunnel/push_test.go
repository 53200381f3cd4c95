//go:build unix

package tunnel

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// A peer that takes nothing, and has granted all the credit in the world, holds up
// the stream that is passed on to it and no other.
func TestPushNeverWaits(t *testing.T) {
	client, middle := tlsSessions(t, Config{})
	x, y := tcpPair(t)
	onward, err := NewSession(Plain(x), true, Config{DeadAfter: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer y.Close()
	defer onward.Close()
	stuck, err := onward.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := y.Write(muxControl(typeWindow, flagACK, stuck.ID(), 1<<31)); err != nil {
			t.Fatal(err)
		}
	}
	in, out := streams(t, client, middle)
	passed := relayed(out, stuck)
	flood := result(func() error {
		p := make([]byte, 1000)
		for { // one at a time, so that each may be pushed
			if _, err := in.Write(p); err != nil {
				return err
			}
			time.Sleep(5 * time.Microsecond)
		}
	})
	eventually(t, "the way on is full", func() bool {
		onward.out.mu.Lock()
		defer onward.out.mu.Unlock()
		return len(onward.out.buf) > batchLimit-4096
	})
	for range 20 {
		echoes(t, client, middle)
	}
	in.Reset()
	out.Reset()
	stuck.Reset()
	y.Close()
	await(t, "flood", flood)
	await(t, "passing on", passed)
}

// Small frames pushed through a relay come out as they went in, also where the
// way on is slow and some do not fit.
func TestPushedBytesArriveWhole(t *testing.T) {
	client, middle := tlsSessions(t, Config{})
	x, y := tcpPair(t)
	x.(*net.TCPConn).SetWriteBuffer(4 << 10)
	onward, far := sessions(t, Plain(x), Plain(y), Config{Window: minWindow})
	a, b := streams(t, client, middle)
	c, d := streams(t, onward, far)
	passed := relayed(b, c)
	const n = 8 << 20
	sent := result(func() error {
		rng := rand.New(rand.NewPCG(3, 3))
		p := make([]byte, 6000)
		for at := 0; at < n; {
			q := p[:min(n-at, 1+rng.IntN(len(p)))]
			pattern(int64(at), q)
			if _, err := a.Write(q); err != nil {
				return err
			}
			at += len(q)
			if rng.IntN(100) == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		return a.CloseWrite()
	})
	got := make(chan int64, 1)
	go func() {
		m, _ := sink(d, nil)
		got <- m
	}()
	if err := await(t, "sender", sent); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "passing on", passed); err != io.EOF {
		t.Fatal(err)
	}
	c.CloseWrite()
	if m := await(t, "receiver", got); m != n {
		t.Errorf("%d bytes came, or others", m)
	}
}

// What the kernel does not take at once goes first the next time.
func TestTryFlushKeepsOrder(t *testing.T) {
	x, y := tcpPair(t)
	defer y.Close()
	x.(*net.TCPConn).SetWriteBuffer(4 << 10)
	c := newRecordConn(x)
	if !c.prompt() {
		t.Fatal("a TCP connection can be written to without waiting")
	}
	const n = 8 << 20
	got := make(chan int64, 1)
	go func() {
		m, _ := sink(y, nil)
		got <- m
	}()
	rng := rand.New(rand.NewPCG(5, 5))
	kept := false
	for at := int64(0); at < n; {
		p := make([]byte, min(n-at, 1+rng.Int64N(20_000)))
		pattern(at, p)
		at += int64(len(p))
		if !kept || rng.IntN(4) > 0 { // otherwise it goes to the end of what is left
			c.hold()
		}
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		if rng.IntN(3) > 0 {
			kept = c.tryFlush()
		} else if err := c.flush(); err != nil {
			t.Fatal(err)
		} else {
			kept = false
		}
	}
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	if c.kept.Load() != 0 || c.written.Load() != n {
		t.Errorf("%d bytes kept, %d written", c.kept.Load(), c.written.Load())
	}
	x.Close()
	if m := await(t, "receiver", got); m != n {
		t.Errorf("%d bytes came of %d, or others", m, int64(n))
	}
}

// A reader that is called away while something is pushed waits for the push, and
// nothing is pushed after it has left.
func TestPushEndsWithItsRead(t *testing.T) {
	client, server := plainSessions(t, Config{})
	a, b := streams(t, client, server)
	var got bytes.Buffer
	buf := make([]byte, 100)
	inside, leave := make(chan struct{}), make(chan struct{})
	read := result(func() error {
		_, err := b.ReadPush(func() []byte { return buf }, func() {}, func(p []byte) int {
			close(inside)
			<-leave
			got.Write(p[:2])
			return 2
		})
		return err
	})
	time.Sleep(10 * time.Millisecond)
	a.Write([]byte("abcd"))
	await(t, "push", inside)
	b.SetReadDeadline(time.Unix(1, 0))
	select {
	case err := <-read:
		t.Errorf("it left in the middle of a push: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(leave)
	if err := await(t, "read", read); err == nil {
		t.Error("it read on after its deadline")
	}
	b.SetReadDeadline(time.Time{})
	a.Write([]byte("ef"))
	a.CloseWrite()
	rest, err := io.ReadAll(b)
	if got.String() != "ab" || string(rest) != "cdef" || err != nil {
		t.Errorf("pushed %q, read %q, %v", &got, rest, err)
	}
}
