package tunnel

import (
	"bytes"
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
