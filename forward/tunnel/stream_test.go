package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand"
	"net"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/culvert-k8s/culvert/forward"
)

func TestStreamIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		client, server := tlsSessions(t, Config{})
		a, b := streams(t, client, server)
		return a, b, func() { a.Close(); b.Close(); client.Close(); server.Close() }, nil
	})
}

func TestBytesArriveWhole(t *testing.T) {
	client, server := tlsSessions(t, Config{})
	const n = 16 << 20
	go server.Serve(context.Background(), func(st *Stream) {
		io.Copy(st, st)
		st.CloseWrite()
	})
	st, err := client.Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	sent := sha256.New()
	go func() {
		r := rand.New(rand.NewSource(1))
		for left := n; left > 0; {
			b := make([]byte, min(left, 1+r.Intn(200000)))
			r.Read(b)
			sent.Write(b)
			if _, err := st.Write(b); err != nil {
				t.Error(err)
				return
			}
			left -= len(b)
		}
		st.CloseWrite()
	}()
	got := sha256.New()
	m, err := io.Copy(got, st)
	if err != nil || m != n || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Fatalf("got %d bytes, %v, equal %v", m, err, bytes.Equal(got.Sum(nil), sent.Sum(nil)))
	}
	st.Close()
}

func TestResetFreesAWriterWithoutCredit(t *testing.T) {
	client, server := tlsSessions(t, Config{})
	a, b := streams(t, client, server)
	wrote := make(chan error, 1)
	go func() { _, err := b.Write(make([]byte, 4<<20)); wrote <- err }()
	time.Sleep(20 * time.Millisecond)
	if err := a.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; !errors.Is(err, forward.ErrReset) {
		t.Fatalf("writer got %v, want a reset", err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, forward.ErrReset) {
		t.Fatalf("reader got %v, want a reset", err)
	}
	c, d := streams(t, client, server)
	go c.Write([]byte("still here"))
	got := make([]byte, 10)
	if _, err := io.ReadFull(d, got); err != nil {
		t.Fatalf("the session did not survive: %v", err)
	}
}
