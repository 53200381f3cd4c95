package rpc

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// closed reports whether the far end of a pipe has been closed.
func closed(t *testing.T, near net.Conn) bool {
	t.Helper()
	_, err := near.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

func TestListenerHandsOverInOrder(t *testing.T) {
	l := NewListener()
	defer l.Close()
	for range 3 {
		near, far := net.Pipe()
		defer near.Close()
		if err := l.Deliver(far, nil); err != nil {
			t.Fatal(err)
		}
		got, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got.(*delivered).Conn != far {
			t.Error("Accept returned another connection than the one delivered")
		}
		got.Close()
	}
}

func TestListenerCloseLeavesAcceptedAlone(t *testing.T) {
	l := NewListener()
	near, far := net.Pipe()
	defer near.Close()
	waiting, queued := net.Pipe()
	defer waiting.Close()
	if err := l.Deliver(far, nil); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := l.Deliver(queued, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v, want net.ErrClosed", err)
	}
	if !closed(t, waiting) {
		t.Error("a connection that nobody can accept any more is still open")
	}

	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() { conn.Write([]byte("x")) })
	if n, err := near.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("accepted connection after Close: read %d, %v", n, err)
	}
}

func TestDeliverAfterClose(t *testing.T) {
	l := NewListener()
	l.Close()
	near, far := net.Pipe()
	defer near.Close()
	if err := l.Deliver(far, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
	if !closed(t, near) {
		t.Error("refused connection is still open")
	}
}

func TestDeliverNeverBlocks(t *testing.T) {
	l := NewListener()
	for range backlog {
		near, far := net.Pipe()
		defer near.Close()
		if err := l.Deliver(far, nil); err != nil {
			t.Fatal(err)
		}
	}
	near, far := net.Pipe()
	defer near.Close()
	if err := l.Deliver(far, nil); !errors.Is(err, ErrBacklog) {
		t.Errorf("got %v, want ErrBacklog", err)
	}
	if !closed(t, near) {
		t.Error("refused connection is still open")
	}
	l.Close()
}

// Whatever the order of Deliver, Accept and Close, each connection is either
// accepted or closed.
func TestListenerLosesNothing(t *testing.T) {
	for range 200 {
		l := NewListener()
		var work sync.WaitGroup
		work.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		})
		for range 4 {
			work.Go(func() {
				near, far := net.Pipe()
				defer near.Close()
				if err := l.Deliver(far, nil); err != nil && !errors.Is(err, net.ErrClosed) {
					t.Errorf("Deliver: %v", err)
				}
				if !closed(t, near) {
					t.Error("connection was lost")
				}
			})
		}
		work.Go(func() { l.Close() })
		work.Wait()
	}
}
