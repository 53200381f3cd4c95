//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

const (
	// patience bounds what takes a moment on a busy machine.
	patience = 30 * time.Second
	// prompt is what a person would call at once, with room for a busy machine.
	prompt = 10 * time.Second
)

// way is one program on one path.
type way struct {
	name    string // heads a column of the table
	culvert bool   // the path is ours
	native  bool   // and the program too
	old     bool   // kubectl 1.29
	on      *lab.Namespace
	command func(args ...string) lab.Command
}

// forwarding is a port-forward that runs.
type forwarding struct {
	*lab.Process
	way   way
	ports []string // local ones, in the order of the arguments
}

var forwardingLine = regexp.MustCompile(`^Forwarding from 127\.0\.0\.1:(\d+) -> `)

// forward starts a port-forward of free local ports and returns when it says that
// it forwards. The caller kills it.
func (w way) forward(ctx context.Context, target string, remote ...int) (*forwarding, error) {
	args := []string{"port-forward", target}
	for _, port := range remote {
		args = append(args, ":"+strconv.Itoa(port))
	}
	p, err := w.on.StartCommand(ctx, w.command(args...))
	if err != nil {
		return nil, err
	}
	f := &forwarding{Process: p, way: w}
	for mark := 0; len(f.ports) < len(remote); {
		match, err := p.WaitLineFrom(mark, forwardingLine, patience)
		if err != nil {
			p.Kill()
			return nil, fmt.Errorf("%w; it said: %s", err, said(p))
		}
		f.ports = append(f.ports, match[1])
		for i, line := range p.Lines() {
			if strings.Contains(line.Text, ":"+match[1]+" ->") {
				mark = i + 1
			}
		}
	}
	return f, nil
}

// said is all that a program has printed, as one line.
func said(p *lab.Process) string {
	var b strings.Builder
	for _, line := range p.Lines() {
		fmt.Fprintf(&b, "%s | ", strings.TrimSpace(line.Text))
	}
	return b.String()
}

// alive tells whether the program still runs.
func (f *forwarding) alive() bool {
	select {
	case <-f.Done():
		return false
	default:
		return true
	}
}

// dial connects to the i-th local port.
func (f *forwarding) dial(ctx context.Context, i int) (*net.TCPConn, error) {
	return f.way.on.Dial(ctx, "127.0.0.1:"+f.ports[i])
}

// connected forwards ports, connects to the first, and ends both after do.
func (w way) connected(ctx context.Context, target string, ports []int, do func(f *forwarding, conn *net.TCPConn) error) error {
	f, err := w.forward(ctx, target, ports...)
	if err != nil {
		return err
	}
	defer f.Kill()
	conn, err := f.dial(ctx, 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	return do(f, conn)
}

// ask connects, sends, finishes and reads to the end, all within limit.
func (f *forwarding) ask(ctx context.Context, i int, send string, limit time.Duration) (string, error) {
	conn, err := f.dial(ctx, i)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(limit))
	if _, err := io.WriteString(conn, send); err != nil {
		return "", err
	}
	if err := conn.CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// exchange writes and reads the same back on a connection that stays open.
func exchange(conn *net.TCPConn, text string, limit time.Duration) error {
	_ = conn.SetDeadline(time.Now().Add(limit))
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("sent %q, got %q", text, got)
	}
	return nil
}

// serves claims that a new connection to the echo on the i-th port is served.
func (f *forwarding) serves(ctx context.Context, i int) error {
	if !f.alive() {
		return fmt.Errorf("it has ended: %s", said(f.Process))
	}
	conn, err := f.dial(ctx, i)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := exchange(conn, "still there?", prompt); err != nil {
		return fmt.Errorf("a new connection: %w", err)
	}
	return nil
}

// ends claims that the peer ends a connection within limit, however.
func ends(conn *net.TCPConn, limit time.Duration) error {
	_ = conn.SetDeadline(time.Now().Add(limit))
	_, err := io.Copy(io.Discard, conn)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New("the connection hangs")
	}
	return nil
}
