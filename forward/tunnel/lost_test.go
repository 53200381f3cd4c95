package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// duplex is what Stream and Conn have in common.
type duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
}

func duplexPair(t testing.TB, client, server *Session, framed bool) (a, b duplex) {
	t.Helper()
	x, y := streams(t, client, server)
	if framed {
		return NewConn(x), NewConn(y)
	}
	return x, y
}

func eachKind(t *testing.T, f func(t *testing.T, framed bool)) {
	t.Run("stream", func(t *testing.T) { f(t, false) })
	t.Run("conn", func(t *testing.T) { f(t, true) })
}

func TestCutCarrierIsAnErrorAndNeverTheEnd(t *testing.T) {
	cuts := map[string]func(*net.TCPConn){
		"rst": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"fin": func(c *net.TCPConn) { c.CloseWrite() },
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, framed bool) {
				client, server := tlsSessions(t, Config{})
				a, b := duplexPair(t, client, server, framed) // b sends, a receives
				c, _ := duplexPair(t, client, server, framed) // c waits for data and for credit
				const enough = 3 << 20
				type outcome struct {
					n   int64
					err error
				}
				received := make(chan outcome, 1)
				sent := result(func() error { return source(b, -1) })
				idle := []<-chan error{
					result(func() error { _, err := c.Read(make([]byte, 1)); return err }),
					result(func() error { _, err := b.Read(make([]byte, 1)); return err }),
					result(func() error { return source(c, -1) }),
				}
				go func() {
					done := false
					n, err := sink(a, func(n int64) {
						if n > enough && !done {
							done = true
							cut(server.car.raw.(*net.TCPConn))
						}
					})
					received <- outcome{n, err}
				}()
				got := await(t, "receiver", received)
				lost(t, "receiver", got.err)
				if got.n < enough {
					t.Errorf("%d bytes came", got.n)
				}
				lost(t, "sender", await(t, "sender", sent))
				for i, ch := range idle {
					lost(t, fmt.Sprint("waiting ", i), await(t, "waiting", ch))
				}
				for _, s := range []*Session{client, server} {
					<-s.Done()
					lost(t, "session", s.Err())
					_, err := s.Open(background(t))
					lost(t, "open", err)
					_, err = s.Accept(background(t))
					lost(t, "accept", err)
				}
				_, err := a.Read(make([]byte, 1))
				lost(t, "a later read", err)
				_, err = b.Write(make([]byte, 1))
				lost(t, "a later write", err)
			})
		})
	}
}

// A frame that has only come in part holds up nobody.
func TestLossWithinAFrameIsToldAtOnce(t *testing.T) {
	s, peer := withRawPeer(t, Config{})
	peer.send(typeWindow, flagSYN, 1, 0)
	st, err := s.Accept(background(t))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	peer.send(typeData, 0, 1, 1000, make([]byte, 10)...)
	time.Sleep(20 * time.Millisecond) // the session is in the frame
	read := result(func() error { _, err := io.Copy(io.Discard, st); return err })
	time.Sleep(20 * time.Millisecond) // the reader waits for the frame
	peer.Close()
	lost(t, "reader", await(t, "reader", read))
}

// A half-closed stream may wait for its answer as long as it likes.
func TestHalfCloseHasNoTimeLimit(t *testing.T) {
	eachKind(t, func(t *testing.T, framed bool) {
		bubble(t, func(t *testing.T) {
			client, server := pipeSessions(t, Config{}, nil)
			a, b := duplexPair(t, client, server, framed)
			answered := result(func() error {
				if _, err := io.Copy(io.Discard, b); err != nil {
					return err
				}
				for range 5 { // before, while and after the five minutes yamux would grant
					time.Sleep(4 * time.Minute)
					if _, err := b.Write([]byte("late ")); err != nil {
						return err
					}
				}
				if err := b.CloseWrite(); err != nil {
					return err
				}
				return b.Close()
			})
			if _, err := a.Write([]byte("question")); err != nil {
				t.Fatal(err)
			}
			if err := a.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(a)
			if err != nil || string(got) != "late late late late late " {
				t.Errorf("got %q, %v", got, err)
			}
			if err := <-answered; err != nil {
				t.Error(err)
			}
			a.Close()
			time.Sleep(time.Minute)
			if n := client.mux.NumStreams() + server.mux.NumStreams(); n != 0 {
				t.Errorf("%d streams left", n)
			}
			client.Close()
			server.Close()
		})
	})
}

// What was written before Close arrives, though the connection is slow to take
// it and the reader talks meanwhile.
func TestCloseDeliversWhatWasWritten(t *testing.T) {
	eachKind(t, func(t *testing.T, framed bool) {
		client, server := tlsSessions(t, Config{})
		server.car.raw.(*net.TCPConn).SetWriteBuffer(1 << 20)
		a, b := duplexPair(t, client, server, framed)
		const n = 400 << 10
		if err := await(t, "write", result(func() error { return errors.Join(source(b, n), b.CloseWrite()) })); err != nil {
			t.Fatal(err)
		}
		talk := result(func() error { return source(a, -1) }) // comes in while the server leaves
		time.Sleep(5 * time.Millisecond)
		if err := await(t, "close", result(server.Close)); err != nil {
			t.Fatal(err)
		}
		<-client.Done()
		lost(t, "writer", await(t, "writer", talk))
		// The reader comes late: the session is gone, what it brought is not.
		got, err := sink(a, nil)
		if got != n {
			t.Errorf("%d bytes came of %d: %v", got, n, err)
		}
		if framed && err != io.EOF {
			t.Errorf("ended with %v, want the end the peer sent", err)
		}
		if !framed {
			lost(t, "a stream cannot prove its end", err)
		}
	})
}

func TestCloseGivesItsCause(t *testing.T) {
	client, server := tlsSessions(t, Config{})
	a, b := streams(t, client, server)
	cause := errors.New("drained")
	read := result(func() error { _, err := a.Read(make([]byte, 1)); return err })
	far := result(func() error { _, err := b.Read(make([]byte, 1)); return err })
	accept := result(func() error { _, err := client.Accept(background(t)); return err })
	if client.Err() != nil {
		t.Error(client.Err())
	}
	if err := client.CloseWithError(cause); err != nil {
		t.Fatal(err)
	}
	for who, ch := range map[string]<-chan error{"read": read, "accept": accept} {
		if err := await(t, who, ch); !errors.Is(err, cause) || !errors.Is(err, ErrLost) {
			t.Errorf("%s: %v", who, err)
		}
	}
	lost(t, "peer", await(t, "peer", far))
	if err := client.Close(); err != nil {
		t.Error("second close:", err)
	}
	if !errors.Is(client.Err(), cause) {
		t.Error(client.Err())
	}

}
