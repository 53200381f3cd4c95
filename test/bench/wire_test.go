//go:build linux

package main

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// TestLossLosesNothing reads through a bad connection: late, but all of it.
func TestLossLosesNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	want := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	sent := make(chan error, 1)
	go func() {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err == nil {
			_, err = conn.Write(want)
			conn.Close()
		}
		sent <- err
	}()
	l := &leg{}
	l.loss.Store(&weather{RTT: time.Microsecond, Loss: 0.3})
	conn, err := (&lossyListener{TCPListener: ln.(*net.TCPListener), leg: l}).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
