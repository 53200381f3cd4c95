package tunnel

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// oneConn is a listener with one connection.
type oneConn struct {
	conn chan net.Conn
	addr net.Addr
}

func (l *oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.conn
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.addr }

// net/http interrupts its background read with a deadline before it hands a
// connection over, and crypto/tls never forgives an error that it does not
// take for temporary.
func TestTLSInsideAStreamSurvivesHijack(t *testing.T) {
	client, server := tlsSessions(t, Config{})
	a, b := streams(t, client, server)
	sc, cc := testTLS(t)
	served := make(chan error, 1)
	srv := &http.Server{TLSConfig: sc, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(10 * time.Millisecond) // the background read has begun
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			served <- err
			return
		}
		defer c.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching\r\n\r\n")
		_ = rw.Flush()
		for range 3 { // the reader has to work for good, not once
			line, err := rw.ReadString('\n')
			if err != nil {
				served <- fmt.Errorf("read after hijack: %w", err)
				return
			}
			_, _ = rw.WriteString(line)
			_ = rw.Flush()
		}
		served <- nil
	})}
	l := &oneConn{conn: make(chan net.Conn, 1), addr: b.LocalAddr()}
	l.conn <- b
	go srv.ServeTLS(l, "", "")
	defer srv.Close()
	defer close(l.conn)

	tc := tls.Client(a, cc)
	defer tc.Close()
	tc.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(tc, "GET / HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	br := bufio.NewReader(tc)
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = br.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "HTTP/") && !strings.Contains(line, "101") {
			t.Fatal(line)
		}
	}
	for i := range 3 {
		want := fmt.Sprintf("line %d\n", i)
		fmt.Fprint(tc, want)
		if got, err := br.ReadString('\n'); got != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
			break
		}
	}
	if err := await(t, "handler", served); err != nil {
		t.Fatal(err)
	}
}

func TestDeadlineErrorIsBare(t *testing.T) {
	client, server := tlsSessions(t, Config{})
	for name, when := range map[string]time.Duration{"passed": -time.Second, "coming": 10 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			a, b := streams(t, client, server)
			defer a.Close()
			defer b.Close()
			a.SetDeadline(time.Now().Add(when))
			err := await(t, "read", result(func() error { _, err := a.Read(make([]byte, 1)); return err }))
			if err != os.ErrDeadlineExceeded { // crypto/tls looks at the bare error
				t.Errorf("read: %#v, want the bare os.ErrDeadlineExceeded", err)
			}
			err = await(t, "write", result(func() error { _, err := a.Write(make([]byte, 4<<20)); return err }))
			if err != os.ErrDeadlineExceeded { // see above
				t.Errorf("write: %#v, want the bare os.ErrDeadlineExceeded", err)
			}
		})
	}
}

// A deadline that has passed is forgotten when a new one is set.
func TestDeadlineCanBeSetAnew(t *testing.T) {
	client, server := tlsSessions(t, Config{})
	a, b := streams(t, client, server)
	defer a.Close()
	defer b.Close()
	written := make(chan int64, 1)
	for round := range 3 {
		a.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		a.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
		n, err := a.Write(make([]byte, 4<<20)) // more than the credit
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		a.SetDeadline(time.Time{})
		go func() {
			got, _ := io.CopyN(io.Discard, b, int64(n))
			written <- got
		}()
		if got := await(t, "what was written before the deadline", written); got != int64(n) {
			t.Fatalf("round %d: %d bytes came of the %d that Write counted", round, got, n)
		}
		go b.Write([]byte("x"))
		if _, err := a.Read(make([]byte, 1)); err != nil {
			t.Fatalf("round %d: read after the deadline was taken back: %v", round, err)
		}
	}
}
