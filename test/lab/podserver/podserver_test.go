package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves one service on a free port and returns its address. It ends with
// the test.
func start(t *testing.T, kind, argument string) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	value := address
	if argument != "" {
		value += "," + argument
	}
	out := writerFunc(func(p []byte) (int, error) { close(ready); return len(p), nil })
	go func() { ended <- run(ctx, []string{"-name", "web-0", "-" + kind, value}, out) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("run ended early: %v", err)
	}
	return address
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// exchange sends what is given, finishes, and returns all that comes back.
func exchange(t *testing.T, address string, send []byte) ([]byte, error) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(send); err != nil {
		return nil, err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return nil, err
	}
	return io.ReadAll(conn)
}

func TestServices(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	for _, tc := range []struct {
		kind, argument string
		send           []byte
		want           string
	}{
		{"echo", "", big, string(big)},
		{"greet", "", []byte("x"), "hello from web-0\nx"},
		{"late", "10ms", big, fmt.Sprintf("late answer to %d bytes\n", len(big))},
		{"sink", "", big, fmt.Sprintf("%d %x\n", len(big), sha256.Sum256(big))},
		{"source", "0", nil, ""},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			got, err := exchange(t, start(t, tc.kind, tc.argument), tc.send)
			if err != nil || string(got) != tc.want {
				t.Errorf("got %d bytes, error %v; want %d bytes", len(got), err, len(tc.want))
			}
		})
	}
}

func TestSourceIsThePattern(t *testing.T) {
	got, err := exchange(t, start(t, "source", "100003"), nil)
	if err != nil || len(got) != 100003 {
		t.Fatalf("got %d bytes, error %v", len(got), err)
	}
	for i := 0; i+8 <= len(got); i += 8 {
		if offset := binary.BigEndian.Uint64(got[i:]); offset != uint64(i) {
			t.Fatalf("at %d there is %d", i, offset)
		}
	}
}

func TestResetIsNoCleanEnd(t *testing.T) {
	_, err := exchange(t, start(t, "reset", "3"), []byte("abc"))
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("error %v, want a reset", err)
	}
}

func TestHTTP(t *testing.T) {
	base := "http://" + start(t, "http", "")
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, tc := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/", "", 200, "hello from web-0\n"},
		{"GET", "/bytes?n=8", "", 200, "\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"GET", "/bytes?n=-1", "", 400, "-1 is negative\n"},
		{"GET", "/slow?d=1ms", "", 200, "slow answer\n"},
		{"POST", "/sha256", "abc", 200, fmt.Sprintf("3 %x\n", sha256.Sum256([]byte("abc")))},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, base+tc.path, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tc.status || string(body) != tc.want {
			t.Errorf("%s %s: %d %q, error %v", tc.method, tc.path, resp.StatusCode, body, err)
		}
	}
}

func TestBadArguments(t *testing.T) {
	for _, args := range [][]string{
		{"-echo", "127.0.0.1:0,what"}, {"-late", "127.0.0.1:0,soon"}, {"-source", "127.0.0.1:0,-3"},
		{"-echo", "nowhere:x:y"}, {"stray"},
	} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}
