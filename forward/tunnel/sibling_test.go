package tunnel

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward"
)

func TestNeverReadStreamLeavesItsSiblingsAlone(t *testing.T) {
	client, server := tlsSessions(t, Config{})
	stuck := make([]<-chan error, 4)
	for i := range stuck {
		a, _ := streams(t, client, server)
		stuck[i] = result(func() error { return source(a, -1) })
	}
	a, b := streams(t, client, server)
	sent := result(func() error { return errors.Join(source(a, 64<<20), a.CloseWrite()) })
	n, err := sink(b, nil)
	if n != 64<<20 || err != io.EOF {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := await(t, "sender", sent); err != nil {
		t.Error(err)
	}
	client.Close()
	for _, ch := range stuck {
		lost(t, "stuck writer", await(t, "stuck writer", ch))
	}
}

// yamux resets the 257th stream that waits to be accepted, as it comes.
func TestManyUnacceptedStreamsHurtNobody(t *testing.T) {
	const many = 1000
	client, server := tlsSessions(t, Config{})
	first, second := streams(t, client, server)
	opened := make([]*Stream, many)
	for i := range opened {
		st, err := client.Open(background(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write([]byte{byte(i), byte(i >> 8)}); err != nil {
			t.Fatal(err)
		}
		opened[i] = st
	}
	go first.Write([]byte("still"))
	if _, err := io.ReadFull(second, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	for i := range opened {
		st, err := server.Accept(background(t))
		if err != nil {
			t.Fatal(err)
		}
		var got [2]byte
		if _, err := io.ReadFull(st, got[:]); err != nil || got != [2]byte{byte(i), byte(i >> 8)} {
			t.Fatalf("stream %d: %v, %v", i, got, err)
		}
		st.Close()
		opened[i].Close()
	}
	first.Close()
	second.Close()
	empty(t, "client", client)
	empty(t, "server", server)
}

func TestLateAcceptIsNoReasonToEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		client, server := pipeSessions(t, Config{}, nil)
		a, err := client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		a.Write([]byte("early"))
		time.Sleep(10 * time.Minute)
		b, err := server.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(b, make([]byte, 5)); err != nil {
			t.Error(err)
		}
		echoes(t, client, server)
		client.Close()
		server.Close()
	})
}

func TestTooManyStreams(t *testing.T) {
	const most = 10
	t.Run("opened here", func(t *testing.T) {
		client, server := tlsSessions(t, Config{MaxStreams: most})
		var last *Stream
		for range most {
			last, _ = streams(t, client, server)
		}
		if _, err := client.Open(background(t)); !errors.Is(err, ErrTooManyStreams) {
			t.Fatalf("got %v", err)
		}
		last.Reset()
		if _, err := client.Open(background(t)); err != nil {
			t.Fatalf("after one has ended: %v", err)
		}
	})
	t.Run("opened by the peer", func(t *testing.T) {
		a, b := carrierPair(t)
		client, err := NewSession(a, true, Config{})
		if err != nil {
			t.Fatal(err)
		}
		server, err := NewSession(b, false, Config{MaxStreams: most})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close(); server.Close() })
		var kept []*Stream
		for range most {
			x, y := streams(t, client, server)
			kept = append(kept, x, y)
		}
		accept := result(func() error { _, err := server.Accept(background(t)); return err })
		for range 5 {
			st, err := client.Open(background(t))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Read(make([]byte, 1)); !errors.Is(err, forward.ErrReset) {
				t.Fatalf("stream beyond the limit: %v, want a reset", err)
			}
			st.Close()
		}
		kept[0].Write([]byte("x"))
		if _, err := kept[1].Read(make([]byte, 1)); err != nil {
			t.Fatalf("the session did not survive: %v", err)
		}
		for _, st := range kept {
			st.Reset()
		}
		empty(t, "client", client)
		empty(t, "server", server)
		client.Close()
		lost(t, "accept", await(t, "accept", accept))
	})
}

func TestOpenEndsWithItsContext(t *testing.T) {
	client, server := tlsSessions(t, Config{PingAfter: 50 * time.Millisecond})
	gone, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("not wanted any more")
	cancel(cause)
	for range 100 {
		if st, err := client.Open(gone); err == nil {
			st.Reset() // it was faster
		} else if !errors.Is(err, cause) {
			t.Fatal(err)
		}
	}
	if _, err := server.Accept(gone); err != nil && !errors.Is(err, cause) {
		t.Fatal(err)
	}
	eventually(t, "nothing open", func() bool { return client.NumStreams() == 0 && client.mux.NumStreams() == 0 })
}
