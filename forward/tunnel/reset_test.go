package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func TestWriterToADepartedReaderIsFreed(t *testing.T) {
	departures := map[string]func(*Stream) error{
		"close": (*Stream).Close, // frees it after Linger
		"reset": (*Stream).Reset, // frees it at once
	}
	for name, depart := range departures {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Linger: 100 * time.Millisecond}
			if name == "reset" {
				cfg.Linger = time.Hour
			}
			client, server := tlsSessions(t, cfg)
			a, b := streams(t, client, server)
			wrote := result(func() error { return source(b, -1) })
			time.Sleep(20 * time.Millisecond) // without credit by now
			if err := depart(a); err != nil {
				t.Fatal(err)
			}
			if err := await(t, "writer", wrote); !errors.Is(err, forward.ErrReset) {
				t.Errorf("writer got %v, want a reset", err)
			}
			b.Close()
			empty(t, "client", client)
			empty(t, "server", server)
			echoes(t, client, server)
		})
	}
}

// Resets leave nothing behind, even if nothing comes in that would make yamux
// look.
func TestResetsEmptyTheTablesOfAnIdleSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		client, server := pipeSessions(t, Config{}, nil)
		for range 50 {
			a, b := streams(t, client, server)
			time.Sleep(time.Millisecond) // its last frame has come
			if err := a.Reset(); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Write([]byte("x")); !errors.Is(err, forward.ErrReset) {
				t.Fatal(err)
			}
			if _, err := b.Read(make([]byte, 1)); !errors.Is(err, forward.ErrReset) {
				t.Fatal(err)
			}
			b.Close()
		}
		time.Sleep(client.cfg.PingAfter / 2) // not a byte comes by itself before all of it
		for _, s := range []*Session{client, server} {
			if s.NumStreams() != 0 || s.mux.NumStreams() != 0 {
				t.Errorf("%d and %d streams left", s.NumStreams(), s.mux.NumStreams())
			}
		}
		client.Close()
		server.Close()
	})
}

func TestResetFrameCarriesCodeAndText(t *testing.T) {
	client, server := tlsSessions(t, Config{})
	x, y := streams(t, client, server)
	a, b := NewConn(x), NewConn(y)
	defer b.Close()
	const queued = 200 << 10
	if err := source(a, queued); err != nil {
		t.Fatal(err)
	}
	cause := &stream.Error{Code: stream.NamespaceGone, Text: "the pod went away"}
	if err := a.Reset(cause); err != nil {
		t.Fatal(err)
	}
	n, err := sink(b, nil)
	coded := (*stream.Error)(nil)
	if n != queued || !errors.Is(err, forward.ErrReset) || !errors.As(err, &coded) || *coded != *cause {
		t.Errorf("%d bytes and %v, want %d and %v", n, err, queued, cause)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, cause) {
		t.Errorf("write after the peer's reset: %v", err)
	}
	if err := b.CloseWrite(); !errors.Is(err, cause) {
		t.Errorf("finish after the peer's reset: %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, cause) || !errors.Is(err, forward.ErrReset) {
		t.Errorf("read after the own reset: %v", err)
	}
}

func TestResetCodeOfACauseWithoutOne(t *testing.T) {
	for _, c := range []struct {
		abort stream.Code
		cause error
		want  stream.Code
	}{
		{0, errors.New("whatever"), stream.Canceled},
		{stream.PodReset, errors.New("whatever"), stream.PodReset},
		{stream.PodReset, context.DeadlineExceeded, stream.Timeout},
		{0, nil, stream.Canceled},
	} {
		client, server := plainSessions(t, Config{})
		x, y := streams(t, client, server)
		a, b := NewConn(x), NewConn(y)
		a.AbortCode = c.abort
		a.Reset(c.cause)
		_, err := b.Read(make([]byte, 1))
		if coded := (*stream.Error)(nil); !errors.As(err, &coded) || coded.Code != c.want {
			t.Errorf("abort code %v, cause %v: peer got %v, want %v", c.abort, c.cause, err, c.want)
		}
		b.Close()
	}
}

func TestResetOfABlockedWriterNeverLooksLikeAnEnd(t *testing.T) {
	client, server := tlsSessions(t, Config{Linger: 50 * time.Millisecond})
	x, y := streams(t, client, server)
	a, b := NewConn(x), NewConn(y)
	cause := errors.New("enough")
	wrote := result(func() error { return source(a, -1) })
	read := result(func() error { _, err := a.Read(make([]byte, 1)); return err })
	time.Sleep(20 * time.Millisecond)
	if err := await(t, "reset", result(func() error { return a.Reset(cause) })); err != nil {
		t.Fatal(err)
	}
	for who, ch := range map[string]<-chan error{"writer": wrote, "reader": read} {
		if err := await(t, who, ch); !errors.Is(err, cause) || !errors.Is(err, forward.ErrReset) {
			t.Errorf("%s: %v", who, err)
		}
	}
	if _, err := sink(b, nil); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("peer: %v", err)
	}
	b.Close()
	empty(t, "client", client)
	empty(t, "server", server)
}

func TestAbortAfterFinish(t *testing.T) {
	client, server := tlsSessions(t, Config{})
	x, y := streams(t, client, server)
	a, b := NewConn(x), NewConn(y)
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wrote := result(func() error { return source(b, -1) })
	time.Sleep(10 * time.Millisecond)
	if err := a.Reset(errors.New("enough")); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "writer", wrote); !errors.Is(err, forward.ErrReset) {
		t.Errorf("writer got %v, want a reset", err)
	}
	b.Close()
	empty(t, "client", client)
	empty(t, "server", server)
}

func TestResetByMany(t *testing.T) {
	client, server := tlsSessions(t, Config{Linger: 50 * time.Millisecond})
	for range 20 {
		x, y := streams(t, client, server)
		a, b := NewConn(x), NewConn(y)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				switch i % 4 {
				case 0:
					a.Reset(fmt.Errorf("cause %d", i))
				case 1:
					b.Reset(nil)
				case 2:
					a.Close()
				case 3:
					x.Reset()
				}
			})
		}
		for _, c := range []*Conn{a, b} {
			wg.Go(func() { source(c, -1) }) // it ends, that is all
			wg.Go(func() {
				if _, err := sink(c, nil); err == nil || errors.Is(err, io.EOF) {
					t.Errorf("reader: %v", err)
				}
			})
		}
		await(t, "all of them", result(func() error { wg.Wait(); return nil }))
		a.Close()
		b.Close()
	}
	empty(t, "client", client)
	empty(t, "server", server)
	echoes(t, client, server)
}

// Closed streams are forgotten as soon as the peer has ended them too.
func TestClosedStreamsDoNotPileUp(t *testing.T) {
	client, server := tlsSessions(t, Config{MaxStreams: 200})
	served := result(func() error {
		return server.Serve(background(t), func(st *Stream) {
			io.Copy(st, st)
			st.Close()
		})
	})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 100 {
				st, err := client.Open(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				st.Write([]byte("x"))
				io.ReadFull(st, make([]byte, 1))
				st.Close() // the peer's end has not come yet
			}
		})
	}
	wg.Wait()
	empty(t, "client", client)
	empty(t, "server", server)
	client.Close()
	lost(t, "serve", await(t, "serve", served))
}

func TestStreamOperationsAfterItsEnd(t *testing.T) {
	client, server := tlsSessions(t, Config{})
	for _, c := range []struct {
		name string
		end  func(*Stream) error
		want error
	}{
		{"closed", (*Stream).Close, net.ErrClosed},
		{"reset", (*Stream).Reset, forward.ErrReset},
	} {
		a, b := streams(t, client, server)
		for range 2 {
			if err := c.end(a); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		_, rerr := a.Read(make([]byte, 1))
		_, werr := a.Write(make([]byte, 1))
		for what, err := range map[string]error{
			"read": rerr, "write": werr, "finish": a.CloseWrite(), "deadline": a.SetDeadline(time.Time{}),
		} {
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %s: %v, want %v", c.name, what, err, c.want)
			}
		}
		b.Close()
	}
}
