//go:build linux

package script

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// verb is one of the things that a script does with connections.
type verb struct {
	run   func(s *script, ts *testscript.TestScript, args []string) error
	least int // arguments
}

// verbs are the commands below tcp. README.md says what they do.
func verbs() map[string]verb {
	return map[string]verb{
		"listen":   {(*script).tcpListen, 2},
		"accept":   {(*script).tcpAccept, 2},
		"open":     {(*script).tcpOpen, 2},
		"nc":       {(*script).tcpNC, 3},
		"send":     {(*script).tcpSend, 2},
		"expect":   {(*script).tcpExpect, 2},
		"finish":   {(*script).tcpFinish, 1},
		"eof":      {(*script).tcpEOF, 1},
		"rest":     {(*script).tcpRest, 1},
		"finished": {(*script).tcpFinished, 1},
		"reset":    {(*script).tcpReset, 1},
		"exits":    {(*script).tcpExits, 2},
		"abort":    {(*script).tcpAbort, 1},
		"pour":     {(*script).tcpPour, 2},
		"stuck":    {(*script).tcpStuck, 1},
		"drain":    {(*script).tcpDrain, 2},
		"hash":     {(*script).tcpHash, 2},
	}
}

// tcp is: tcp VERB NAME ARG...
func (s *script) tcp(ts *testscript.TestScript, args []string) error {
	if len(args) == 0 {
		return errUsage(args)
	}
	v, ok := verbs()[args[0]]
	if !ok || len(args)-1 < v.least {
		return errUsage(args)
	}
	return v.run(s, ts, args[1:])
}

// conn finds a connection and gives it a deadline for what comes next.
func (s *script) conn(name string) (*conn, error) {
	c := s.conns[name]
	if c == nil {
		return nil, fmt.Errorf("there is no connection %s", name)
	}
	return c, c.SetDeadline(time.Now().Add(patience))
}

func (s *script) name(name string, w wire) error {
	if s.conns[name] != nil {
		return fmt.Errorf("the name %s is taken", name)
	}
	s.conns[name] = &conn{wire: w}
	return nil
}

// tcpListen is: listen POD PORT. The test itself listens on the pod's localhost.
func (s *script) tcpListen(_ *testscript.TestScript, args []string) error {
	pod, err := s.findPod(args[0])
	if err != nil {
		return err
	}
	ln, err := pod.Listen(net.JoinHostPort("127.0.0.1", args[1]))
	if err != nil {
		return err
	}
	s.ears[args[0]+":"+args[1]] = listen(ln)
	return nil
}

// tcpAccept is: accept NAME POD:PORT.
func (s *script) tcpAccept(_ *testscript.TestScript, args []string) error {
	e := s.ears[args[1]]
	if e == nil {
		return fmt.Errorf("the test does not listen on %s", args[1])
	}
	c, err := e.next(s.ctx)
	if err != nil {
		return err
	}
	return s.name(args[0], tcpWire{c})
}

// tcpOpen is: open NAME ADDRESS. It dials from the client host. A connection that
// is reset so soon that dialling sees it counts as one that was open before.
func (s *script) tcpOpen(_ *testscript.TestScript, args []string) error {
	c, err := s.cluster.Client.Dial(s.ctx, args[1])
	if errors.Is(err, syscall.ECONNRESET) {
		return s.name(args[0], stillborn{err})
	}
	if err != nil {
		return err
	}
	return s.name(args[0], tcpWire{c})
}

// dial is: [!] dial HOST ADDRESS. A connection from a host is accepted, or
// refused.
func dial(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Check(errUsage(args))
	}
	s := of(ts)
	host, err := s.host(args[0])
	ts.Check(err)
	c, err := host.Dial(s.ctx, args[1])
	if err == nil {
		_ = c.Close()
	}
	if neg && !errors.Is(err, syscall.ECONNREFUSED) {
		ts.Fatalf("dial %s from %s: %v, want it refused", args[1], args[0], err)
	}
	if !neg {
		ts.Check(err)
	}
}

// tcpNC is: nc NAME ARG... The connection is culvert nc with these arguments.
func (s *script) tcpNC(ts *testscript.TestScript, args []string) error {
	w, err := s.startNC(ts, args[1:])
	if err != nil {
		return err
	}
	s.procs[args[0]] = w.proc
	return s.name(args[0], w)
}

// tcpSend is: send NAME TEXT.
func (s *script) tcpSend(_ *testscript.TestScript, args []string) error {
	c, err := s.conn(args[0])
	if err != nil {
		return err
	}
	_, err = io.WriteString(c, args[1])
	return err
}

// tcpExpect is: expect NAME TEXT. It reads as many bytes as TEXT has.
func (s *script) tcpExpect(_ *testscript.TestScript, args []string) error {
	c, err := s.conn(args[0])
	if err != nil {
		return err
	}
	got := make([]byte, len(args[1]))
	n, err := io.ReadFull(c, got)
	if err != nil || string(got) != args[1] {
		return fmt.Errorf("%s: got %q, %w, want %q", args[0], got[:n], err, args[1])
	}
	return nil
}

// tcpFinish is: finish NAME.
func (s *script) tcpFinish(_ *testscript.TestScript, args []string) error {
	c, err := s.conn(args[0])
	if err != nil {
		return err
	}
	return c.CloseWrite()
}

// rest reads a connection to its end, which must be a clean one, and closes it.
func (s *script) rest(name string) ([]byte, error) {
	c, err := s.conn(name)
	if err != nil {
		return nil, err
	}
	var got bytes.Buffer
	if err := c.Judge(readAll(&got, c)); err != nil {
		return nil, fmt.Errorf("%s: after %d bytes: %w", name, got.Len(), err)
	}
	delete(s.conns, name)
	return got.Bytes(), c.Close()
}

// readAll copies what there is and returns how it ended, io.EOF or an error.
func readAll(w io.Writer, r io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return werr
		}
		if err != nil {
			return err
		}
	}
}

// tcpEOF is: eof NAME. The peer has sent nothing more and finished; the
// connection is closed.
func (s *script) tcpEOF(_ *testscript.TestScript, args []string) error {
	got, err := s.rest(args[0])
	if err == nil && len(got) > 0 {
		err = fmt.Errorf("%s: %.100q instead of the end", args[0], got)
	}
	return err
}

// tcpFinished is: finished NAME. The peer has sent nothing more and finished; the
// connection stays, for the other direction.
func (s *script) tcpFinished(_ *testscript.TestScript, args []string) error {
	c, err := s.conn(args[0])
	if err != nil {
		return err
	}
	n, err := c.Read(make([]byte, 1))
	if n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %d bytes and %w instead of the end", args[0], n, err)
	}
	return nil
}

// tcpRest is: rest NAME. What comes before a clean end becomes stdout.
func (s *script) tcpRest(ts *testscript.TestScript, args []string) error {
	got, err := s.rest(args[0])
	if err == nil {
		_, err = ts.Stdout().Write(got)
	}
	return err
}

// tcpReset is: reset NAME. The connection must be broken off by the other side;
// what came before is dropped.
func (s *script) tcpReset(ts *testscript.TestScript, args []string) error {
	c, err := s.conn(args[0])
	if err != nil {
		return err
	}
	delete(s.conns, args[0])
	err = c.Judge(readAll(io.Discard, c))
	_ = c.Close() // it is over
	if !errors.Is(err, errBroken) {
		return fmt.Errorf("%s: it was to be reset, but the end is: %w", args[0], cmpNil(err, io.EOF))
	}
	fmt.Fprintln(ts.Stdout(), err)
	return nil
}

// cmpNil returns err, or other if it is nil.
func cmpNil(err, other error) error {
	if err == nil {
		return other
	}
	return err
}

// tcpExits is: exits NAME CODE. The nc behind the connection ends by itself.
func (s *script) tcpExits(_ *testscript.TestScript, args []string) error {
	c, err := s.conn(args[0])
	if err != nil {
		return err
	}
	w, ok := c.wire.(*ncWire)
	if !ok {
		return fmt.Errorf("%s is no nc", args[0])
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	if err := w.proc.Wait(ctx); ctx.Err() != nil {
		return err
	}
	if code := fmt.Sprint(w.proc.ExitCode()); code != args[1] {
		return fmt.Errorf("nc ended with exit code %s, want %s", code, args[1])
	}
	return nil
}

// tcpAbort is: abort NAME. It breaks the connection off from this end.
func (s *script) tcpAbort(_ *testscript.TestScript, args []string) error {
	c, err := s.conn(args[0])
	if err != nil {
		return err
	}
	delete(s.conns, args[0])
	return c.Abort()
}

// tcpPour is: pour NAME SIZE [&]. It sends the pattern; with & in the
// background, where it ends with the connection.
func (s *script) tcpPour(_ *testscript.TestScript, args []string) error {
	c, err := s.conn(args[0])
	if err != nil {
		return err
	}
	n, err := size(args[1])
	if err != nil {
		return err
	}
	if !slices.Contains(args, "&") {
		return pour(c, n, s.extend(c))
	}
	done := make(chan error, 1)
	c.poured = done
	go func() { // ends with c; waited for in stuck and close
		err := pour(c, n, func() {})
		done <- err
		close(done)
	}()
	return nil
}

// tcpStuck is: stuck NAME. What pours in the background must be broken off by
// the other side.
func (s *script) tcpStuck(_ *testscript.TestScript, args []string) error {
	c, err := s.conn(args[0])
	if err != nil {
		return err
	}
	if err := c.Judge(<-c.poured); !errors.Is(err, errBroken) {
		return fmt.Errorf("%s: it was to be reset while it wrote, but the end is: %w", args[0], cmpNil(err, io.EOF))
	}
	delete(s.conns, args[0])
	return c.Close()
}

// tcpDrain is: drain NAME SIZE. It reads that much of the pattern.
func (s *script) tcpDrain(ts *testscript.TestScript, args []string) error {
	c, err := s.conn(args[0])
	if err != nil {
		return err
	}
	n, err := size(args[1])
	if err != nil {
		return err
	}
	began := time.Now()
	if err := drain(c, n, s.extend(c)); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	ts.Logf("%s: %.0f MiB/s", args[0], float64(n)/(1<<20)/time.Since(began).Seconds())
	return nil
}

// tcpHash is: hash NAME SIZE. What the sink of podserver answers to so much of
// the pattern must be right, and then the end.
func (s *script) tcpHash(_ *testscript.TestScript, args []string) error {
	n, err := size(args[1])
	if err != nil {
		return err
	}
	sum := sha256.New()
	if err := pour(sum, n, func() {}); err != nil {
		return err
	}
	got, err := s.rest(args[0])
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("%d %x\n", n, sum.Sum(nil)); string(got) != want {
		return fmt.Errorf("%s: the pod got %q, want %q", args[0], got, want)
	}
	return nil
}

// extend returns a function that gives a connection which makes progress more
// time.
func (s *script) extend(c *conn) func() {
	return func() { _ = c.SetDeadline(time.Now().Add(patience)) }
}
