//go:build linux

package script

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-k8s/culvert/test/lab"
)

// wire is what a conn needs of a connection: TCP, or the pipes of culvert nc.
type wire interface {
	io.ReadWriter
	SetDeadline(t time.Time) error
	// CloseWrite finishes one direction, Abort breaks both off, Close releases.
	CloseWrite() error
	Abort() error
	Close() error
	// Judge says what the end of reading means: nil for a clean end, an error
	// that wraps errBroken for one that is none.
	Judge(err error) error
}

// errBroken reports a connection that the other end broke off.
var errBroken = errors.New("broken off")

// conn is one end of a connection, with a name in the script.
type conn struct {
	wire
	poured chan error // of a pour in the background
}

func (c *conn) close() {
	_ = c.Abort()
	if c.poured != nil {
		<-c.poured
	}
}

// tcpWire is a TCP connection of the test.
type tcpWire struct{ *net.TCPConn }

// Abort makes the peer see a reset.
func (w tcpWire) Abort() error {
	_ = w.SetLinger(0)
	return w.TCPConn.Close()
}

// Judge takes a reset, and nothing else, for a connection broken off.
func (tcpWire) Judge(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	return err
}

// stillborn is a connection that was reset before dialling returned.
type stillborn struct{ err error }

func (w stillborn) Read([]byte) (int, error)  { return 0, w.err }
func (w stillborn) Write([]byte) (int, error) { return 0, w.err }
func (w stillborn) CloseWrite() error         { return w.err }
func (stillborn) SetDeadline(time.Time) error { return nil }
func (stillborn) Abort() error                { return nil }
func (stillborn) Close() error                { return nil }
func (stillborn) Judge(err error) error       { return tcpWire{}.Judge(err) }

// ncWire is culvert nc with the test at its standard input and output.
type ncWire struct {
	in, out *os.File
	proc    *lab.Process
}

// startNC runs culvert nc with args on the client host.
func (s *script) startNC(ts *testscript.TestScript, args []string) (_ *ncWire, err error) {
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close() // the process has its own
		}
	}()
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	files = append(files, inR)
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inW.Close())
	}
	files = append(files, outW)
	p, err := s.cluster.Client.StartCommand(context.WithoutCancel(s.ctx), lab.Command{
		Path: s.cluster.Binaries.Client, Args: append([]string{"nc"}, args...),
		Env: environment(ts), Stdin: inR, Stdout: outW, Label: "nc",
	})
	if err != nil {
		return nil, errors.Join(err, inW.Close(), outR.Close())
	}
	return &ncWire{in: inW, out: outR, proc: p}, nil
}

func (w *ncWire) Read(p []byte) (int, error)  { return w.out.Read(p) }
func (w *ncWire) Write(p []byte) (int, error) { return w.in.Write(p) }
func (w *ncWire) CloseWrite() error           { return w.in.Close() }

// Abort kills the process.
func (w *ncWire) Abort() error {
	w.proc.Kill()
	return w.Close()
}

// Close closes the pipes; the process sees that.
func (w *ncWire) Close() error {
	_ = w.in.Close() // perhaps the second time
	return w.out.Close()
}

func (w *ncWire) SetDeadline(t time.Time) error {
	_ = w.in.SetDeadline(t) // it may be closed already
	return w.out.SetDeadline(t)
}

// Judge tells a clean end by the exit code, since a pipe has but one way to end.
func (w *ncWire) Judge(err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.proc.Wait(ctx); ctx.Err() != nil {
		return err
	}
	switch code := w.proc.ExitCode(); code {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: %s", errBroken, w.proc.Text(lab.Stderr))
	default:
		return fmt.Errorf("nc ended with exit code %d: %s", code, w.proc.Text(lab.Stderr))
	}
}

// ear is a listener of the test inside a pod.
type ear struct {
	ln    *net.TCPListener
	conns chan *net.TCPConn
	done  chan struct{}
}

// listen takes connections in the background until close.
func listen(ln *net.TCPListener) *ear {
	e := &ear{ln: ln, conns: make(chan *net.TCPConn, 16), done: make(chan struct{})}
	go func() {
		defer close(e.done)
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			e.conns <- c
		}
	}()
	return e
}

// next returns the next connection. The caller closes it.
func (e *ear) next(ctx context.Context) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case c := <-e.conns:
		return c, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("accept: %w", context.Cause(ctx))
	}
}

func (e *ear) close() {
	_ = e.ln.Close()
	for {
		select {
		case c := <-e.conns:
			_ = c.Close()
		case <-e.done:
			return
		}
	}
}
