package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// writeCounter counts what a connection below TLS is asked to write.
type writeCounter struct {
	net.Conn
	writes int
}

func (c *writeCounter) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}

// Who was handed a TLS connection can have the records of one write leave together.
func TestHandOverGathers(t *testing.T) {
	sc, cc := testTLS(t)
	a, b := net.Pipe()
	counter := &writeCounter{Conn: b}
	data := bytes.Repeat([]byte("0123456789abcdef"), 4<<10) // four records
	got := make(chan []byte, 1)
	read := result(func() error {
		client, err := HandshakeClient(background(t), a, cc)
		if err != nil {
			return err
		}
		buf := make([]byte, len(data))
		_, err = io.ReadFull(client, buf)
		got <- buf
		return err
	})
	car, err := HandshakeServer(background(t), counter, sc)
	if err != nil {
		t.Fatal(err)
	}
	given := car.HandOver()
	beneath, ok := given.NetConn().(interface {
		Hold()
		Flush() error
	})
	if !ok {
		t.Fatal("nothing gathers beneath TLS")
	}
	before := counter.writes
	beneath.Hold()
	if _, err := given.Write(data); err != nil {
		t.Fatal(err)
	}
	if counter.writes != before {
		t.Errorf("%d writes while it was to hold", counter.writes-before)
	}
	if err := beneath.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := counter.writes - before; n != 1 {
		t.Errorf("%d writes", n)
	}
	if err := await(t, "read", read); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(<-got, data) {
		t.Error("other data arrived")
	}
	a.Close()
	b.Close()
	if _, err := given.Write(data); err == nil {
		t.Error("a write to nobody")
	}
}

// What TLS writes by itself, when its peer wants other keys, waits neither for a peer
// that reads nothing nor with anybody else; and there is an end to it.
func TestUnaskedWritesDoNotWait(t *testing.T) {
	a, b := tcpPair(t)
	defer a.Close()
	defer b.Close()
	c := newRecordConn(a)
	c.own()
	if !c.prompt() {
		t.Skip("no socket here can be written to without waiting")
	}
	var err error
	total := 0
	for piece := make([]byte, 1<<10); err == nil && total < 64<<20; total += len(piece) {
		_, err = c.Write(piece)
	}
	if !errors.Is(err, errUnread) {
		t.Errorf("%d bytes were taken, then: %v", total, err)
	}
	if len(c.gather) > unaskedLimit {
		t.Errorf("%d bytes are held, want at most %d", len(c.gather), unaskedLimit)
	}
	got := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, b)
		got <- n
	}()
	if err := c.Flush(); err != nil {
		t.Error(err)
	}
	a.Close()
	if n := <-got; n != int64(total-1<<10) {
		t.Errorf("%d bytes came of %d", n, total-1<<10)
	}
}
