package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/culvert-k8s/culvert/forward/client/relaytest"
)

// lockedBuffer is standard error while the program runs.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// forwarding is a port-forward that runs.
type forwarding struct {
	out  *bufio.Reader
	errs *lockedBuffer
	stop func() int
}

func forwardPorts(t *testing.T, r *relaytest.Relay, args ...string) *forwarding {
	t.Helper()
	read, write := io.Pipe()
	f := &forwarding{out: bufio.NewReader(read), errs: new(lockedBuffer)}
	run := culvert(t, r, io.NopCloser(strings.NewReader("")), write, f.errs)
	ctx, cancel := context.WithCancel(context.Background())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"port-forward"}, args...)...)
		_ = write.Close()
	}()
	f.stop = sync.OnceValue(func() int {
		cancel()
		_ = read.Close()
		return <-code
	})
	t.Cleanup(func() { f.stop() })
	return f
}

// port reads one line and returns the local port in it.
func (f *forwarding) port(t *testing.T, format string) string {
	t.Helper()
	line, err := f.out.ReadString('\n')
	m := regexp.MustCompile(`^` + strings.ReplaceAll(regexp.QuoteMeta(format), "PORT", `(\d+)`) + `\n$`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("stdout %q (%v), want %q; stderr:\n%s", line, err, format, f.errs)
	}
	return m[1]
}

func ask(port, question string) (string, error) {
	c, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, question); err != nil {
		return "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func TestPortForward(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("run", func(t *testing.T) { // its cleanups come before the leak check
		r := relaytest.Start(t)
		r.AddPod("default", "web", echoServer(t))
		f := forwardPorts(t, r, "--address", "127.0.0.1", "pod/web", ":80", ":81")
		port := f.port(t, "Forwarding from 127.0.0.1:PORT -> 80")
		f.port(t, "Forwarding from 127.0.0.1:PORT -> 81")
		if got, err := ask(port, "question"); got != "question" || err != nil {
			t.Errorf("ask = %q, %v", got, err)
		}
		if p := f.port(t, "Handling connection for PORT"); p != port {
			t.Errorf("handling a connection for %s, want %s", p, port)
		}
		if code := f.stop(); code != 0 {
			t.Errorf("exit code %d after an interrupt", code)
		}
		if f.errs.String() != "" {
			t.Errorf("stderr:\n%s", f.errs)
		}
	})
}

func TestPortForwardOutlivesPodAndRelay(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("run", func(t *testing.T) {
		r := relaytest.Start(t)
		r.AddPod("default", "web", "127.0.0.1:1")
		f := forwardPorts(t, r, "--address", "127.0.0.1", "web", ":80")
		port := f.port(t, "Forwarding from 127.0.0.1:PORT -> 80")

		if _, err := ask(port, "anybody?"); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("ask of a pod that does not listen = %v, want a reset", err)
		}
		f.port(t, "Handling connection for PORT")
		r.Cut()
		r.AddPod("default", "web", echoServer(t))
		// One that was opened before the end of the session was known is lost.
		for try := 1; ; try++ {
			got, err := ask(port, "question")
			f.port(t, "Handling connection for PORT")
			if got == "question" && err == nil {
				break
			}
			if try == 10 {
				t.Fatalf("ask after the relay came back = %q, %v", got, err)
			}
		}
		if code := f.stop(); code != 0 {
			t.Errorf("exit code %d after an interrupt", code)
		}
		for _, want := range []string{
			fmt.Sprintf("error: forwarding %s -> 80: nothing listens in pod default/web (check the port, and that the program in the pod is up and listens on localhost or on all addresses)\n", port),
			"warning: relay " + r.Addr + ": tunnel to ",
			"connected to relay " + r.Addr + "\n",
		} {
			if !strings.Contains(f.errs.String(), want) {
				t.Errorf("stderr lacks %q:\n%s", want, f.errs)
			}
		}
	})
}

func TestUnreadOutputHoldsUpNoConnection(t *testing.T) {
	r := relaytest.Start(t)
	r.AddPod("default", "web", echoServer(t))
	f := forwardPorts(t, r, "--address", "127.0.0.1", "web", ":80")
	port := f.port(t, "Forwarding from 127.0.0.1:PORT -> 80")
	for range 3 { // nobody reads what is said about them
		if got, err := ask(port, "question"); got != "question" || err != nil {
			t.Fatalf("ask = %q, %v", got, err)
		}
	}
}

func TestPortForwardWaitsForThePod(t *testing.T) {
	r := relaytest.Start(t)
	f := forwardPorts(t, r, "--address", "127.0.0.1", "web", ":80")
	r.AddPod("default", "web", echoServer(t))
	f.port(t, "Forwarding from 127.0.0.1:PORT -> 80")
	if code := f.stop(); code != 0 {
		t.Errorf("exit code %d after an interrupt", code)
	}
}

func TestPortForwardOnTakenPorts(t *testing.T) {
	r := relaytest.Start(t)
	addr := echoServer(t)
	r.AddPod("default", "web", addr)
	_, taken, _ := net.SplitHostPort(addr)
	f := forwardPorts(t, r, "--address", "127.0.0.1", "web", taken+":80")
	if out, _ := io.ReadAll(f.out); len(out) > 0 {
		t.Errorf("stdout %q", out)
	}
	if code := f.stop(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	want := "Unable to listen on port TAKEN: listen tcp4 127.0.0.1:TAKEN: bind: address already in use\n" +
		"error: unable to listen on any of the requested ports: [{TAKEN 80}]\n" +
		"hint: choose another local port, or let the system choose one with :80\n"
	if want = strings.ReplaceAll(want, "TAKEN", taken); f.errs.String() != want {
		t.Errorf("stderr:\n%swant:\n%s", f.errs, want)
	}

	// One that can be bound is enough.
	f = forwardPorts(t, r, "--address", "127.0.0.1", "web", taken+":80", ":81")
	f.port(t, "Forwarding from 127.0.0.1:PORT -> 81")
}

func TestNCHalfClose(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("run", func(t *testing.T) {
		// A pod that says all it has and goes on listening.
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 1)
		go func() {
			defer ln.Close()
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = io.WriteString(c, "farewell")
			_ = c.(*net.TCPConn).CloseWrite()
			b, _ := io.ReadAll(c)
			got <- string(b)
		}()
		r := relaytest.Start(t)
		r.AddPod("default", "web", ln.Addr().String())
		in, type_ := io.Pipe()
		out, write := io.Pipe()
		errs := new(lockedBuffer)
		run := culvert(t, r, in, write, errs)
		code := make(chan int, 1)
		go func() { code <- run(context.Background(), "nc", "web", "80") }()
		if b, err := io.ReadAll(out); string(b) != "farewell" || err != nil {
			t.Errorf("stdout %q, %v", b, err)
		}
		_, _ = io.WriteString(type_, "answer after the end")
		_ = type_.Close()
		if s := <-got; s != "answer after the end" {
			t.Errorf("the pod got %q", s)
		}
		if c := <-code; c != 0 {
			t.Errorf("exit code %d, stderr:\n%s", c, errs)
		}
	})
}

func TestNCReportsALostRelay(t *testing.T) {
	r := relaytest.Start(t)
	r.AddPod("default", "web", echoServer(t))
	in, type_ := io.Pipe()
	defer type_.Close()
	out, write := io.Pipe()
	errs := new(lockedBuffer)
	run := culvert(t, r, in, write, errs)
	code := make(chan int, 1)
	go func() { code <- run(context.Background(), "nc", "web", "80") }()
	_, _ = io.WriteString(type_, "x") // taken when the stream is up
	r.Cut()
	if b, _ := io.ReadAll(out); len(b) > 0 {
		t.Errorf("stdout %q", b)
	}
	if c := <-code; c != 1 || !strings.HasPrefix(errs.String(), "error: ") {
		t.Errorf("exit code %d, stderr:\n%s", c, errs)
	}
}
