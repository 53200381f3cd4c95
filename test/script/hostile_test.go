//go:build linux

package script

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-k8s/culvert/proto/stream"
	"github.com/culvert-k8s/culvert/test/lab"
)

// attacks are what garbage sends. They return when they have said all they
// wanted to; the peer must then hang up.
func attacks() map[string]func(*net.TCPConn) error {
	return map[string]func(*net.TCPConn) error{
		"silence": func(*net.TCPConn) error { return nil },
		"noise":   func(c *net.TCPConn) error { return write(c, noise(64<<10)) },
		"http":    func(c *net.TCPConn) error { return write(c, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")) },
		"header": func(c *net.TCPConn) error {
			return write(c, []byte("GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 1<<20)))
		},
		"hello":   func(c *net.TCPConn) error { h := clientHello(); return write(c, h[:len(h)/2]) },
		"no-alpn": func(c *net.TCPConn) error { return overTLS(c, "", nil) },
		"h2":      func(c *net.TCPConn) error { return overTLS(c, "h2", []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) },
		"client":  func(c *net.TCPConn) error { return overTLS(c, stream.ALPNClient, noise(64<<10)) },
		"agent":   func(c *net.TCPConn) error { return overTLS(c, stream.ALPNAgent, noise(64<<10)) },
		"mute":    func(c *net.TCPConn) error { return overTLS(c, stream.ALPNClient, nil) },
	}
}

// garbage is: garbage KIND[,KIND...] HOST ADDRESS. It is sent from a host, several
// kinds at once, and whoever listens must hang up.
func (s *script) garbage(ts *testscript.TestScript, args []string) error {
	if len(args) != 3 {
		return errUsage(args)
	}
	host, err := s.host(args[1])
	if err != nil {
		return err
	}
	kinds := strings.Split(args[0], ",")
	said, errs := make([]string, len(kinds)), make([]error, len(kinds))
	var all sync.WaitGroup
	for i, kind := range kinds {
		all.Go(func() { said[i], errs[i] = s.throw(kind, host, args[2]) })
	}
	all.Wait()
	for _, text := range said {
		ts.Logf("%s", text)
	}
	return errors.Join(errs...)
}

// throw sends one kind of garbage and says how it ended.
func (s *script) throw(kind string, host *lab.Host, address string) (said string, err error) {
	attack, ok := attacks()[kind]
	if !ok {
		return "", errUsage([]string{kind})
	}
	c, err := host.Dial(s.ctx, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	began := time.Now()
	// It may be cut off in the middle, which is as good as any answer.
	attackErr := attack(c)
	n, err := io.Copy(io.Discard, c)
	if errors.Is(errors.Join(attackErr, err), os.ErrDeadlineExceeded) {
		return "", fmt.Errorf("%s: the connection is still open: %w", kind, errors.Join(attackErr, err))
	}
	return fmt.Sprintf("%s: closed after %v and %d bytes: %v, %v", kind, time.Since(began).Round(time.Millisecond), n, attackErr, err), nil
}

func write(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}

// overTLS makes a TLS connection with a protocol name, says something and waits
// for the end.
func overTLS(c *net.TCPConn, alpn string, say []byte) error {
	cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	if alpn != "" {
		cfg.NextProtos = []string{alpn}
	}
	tc := tls.Client(c, cfg)
	if err := tc.Handshake(); err != nil {
		return err
	}
	if err := write(tc, say); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, tc)
	return err
}

// recorder keeps what is written and has nothing to read.
type recorder struct {
	net.Conn
	written bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error)      { return r.written.Write(p) }
func (r *recorder) Read([]byte) (int, error)         { return 0, io.EOF }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
func (r *recorder) Close() error                     { return nil }

// clientHello returns the first message of a TLS client.
func clientHello() []byte {
	r := &recorder{}
	_ = tls.Client(r, &tls.Config{ServerName: "relay", NextProtos: []string{stream.ALPNClient}}).HandshakeContext(context.Background())
	return r.written.Bytes()
}
