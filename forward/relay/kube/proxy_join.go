package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
)

// nameTime bounds asking for the name in the log line.
const nameTime = 10 * time.Second

// join passes a 101 on and carries bytes until both ends have finished, or one
// broke off, or the request's context has ended. One line is logged then.
func (p *proxy) join(way *passage) {
	res := way.switched
	backend, ok := res.Body.(io.ReadWriteCloser)
	if !ok || !strings.EqualFold(res.Header.Get("Upgrade"), way.protocol) {
		_ = res.Body.Close()
		p.unanswered(way, nonsenseError(fmt.Sprintf("it switched to %.100q and was asked for %q", res.Header.Get("Upgrade"), way.protocol)))
		return
	}
	conn, rw, err := http.NewResponseController(way.rec).Hijack()
	if err != nil {
		_ = backend.Close()
		p.unanswered(way, fmt.Errorf("take the client's connection over: %w", err))
		return
	}
	began := time.Now()
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	client := &clientEnd{Conn: conn, Reader: io.MultiReader(bytes.NewReader(early), conn)}

	ctx := way.in.Context()
	var user string
	var asked sync.WaitGroup
	asked.Go(func() { user = p.nameOf(ctx, way) })
	var live forward.Live
	if err = passSwitch(conn, res, way.protocol); err != nil {
		_, _ = client.Close(), backend.Close()
	} else {
		_, err = p.joiner.Join(ctx, forward.Pipe(client, clientWriter{conn, p.partingTime}), forward.Pipe(backend, backendWriter{backend}), &live)
	}
	asked.Wait()
	log := p.kube.cfg.Log.With(
		"user", user, "from", way.in.RemoteAddr, "method", way.in.Method, "path", clip(way.in.URL.EscapedPath()), "protocol", way.protocol,
		"bytes_up", live.AtoB.Load(), "bytes_down", live.BtoA.Load(), "duration", time.Since(began))
	if err != nil {
		log = log.With("err", err)
	}
	log.Info("upgraded session ended")
}

// nameOf returns the caller's name for the log, if it can be had.
func (p *proxy) nameOf(ctx context.Context, way *passage) string {
	ctx, cancel := context.WithTimeout(ctx, nameTime)
	defer cancel()
	who, err := p.kube.Known(ctx, way.who)
	if err != nil {
		return ""
	}
	return who.Name
}

// passSwitch writes the API server's 101 to the client.
func passSwitch(conn net.Conn, res *http.Response, protocol string) error {
	h := res.Header.Clone()
	for name := range kubectl.Tokens(h["Connection"]) {
		h.Del(name)
	}
	for _, name := range []string{"Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Te", "Trailer", "Transfer-Encoding", "Content-Length"} {
		h.Del(name)
	}
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", protocol)
	var head bytes.Buffer
	answer := &http.Response{StatusCode: http.StatusSwitchingProtocols, ProtoMajor: 1, ProtoMinor: 1, Header: h}
	if err := answer.Write(&head); err != nil {
		return fmt.Errorf("write 101: %w", err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(handshakeTime))
	defer func() { _ = conn.SetWriteDeadline(time.Time{}) }()
	if _, err := conn.Write(head.Bytes()); err != nil {
		return fmt.Errorf("write 101: %w", err)
	}
	return nil
}

// clientEnd is the client's connection, with what it said before it was taken
// over.
type clientEnd struct {
	net.Conn
	io.Reader
}

// errStayed is what becomes of a client that does not hang up.
var errStayed = errors.New("client stayed after the API server had hung up")

// Read implements io.Reader.
func (c *clientEnd) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) { // clientWriter sets the only deadline there is
		err = errStayed
	}
	return n, err
}

// CloseWithError aborts: a client of TLS sees no end mark, one of TCP a reset.
func (c *clientEnd) CloseWithError(error) error {
	raw := c.Conn
	if t, ok := raw.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	if t, ok := raw.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0)
	}
	return raw.Close()
}

// clientWriter is the direction to the client. Closing it finishes that alone.
type clientWriter struct {
	net.Conn
	parting time.Duration
}

// Close finishes the direction. The API server has hung up then, in both
// directions: the client is given some time to do the same. What goes wrong with
// that is for the other direction to tell.
func (w clientWriter) Close() error {
	_ = w.SetReadDeadline(time.Now().Add(w.parting))
	closeWrite(w.Conn)
	return nil
}

// CloseWithError leaves it to the other direction to end the connection.
func (clientWriter) CloseWithError(error) error { return nil }

// backendWriter is the direction to the API server.
type backendWriter struct{ io.ReadWriteCloser }

// Close finishes the direction. What goes wrong with that is for the other
// direction to tell.
func (w backendWriter) Close() error {
	closeWrite(w.ReadWriteCloser)
	return nil
}

// CloseWithError leaves it to the other direction to end the connection.
func (backendWriter) CloseWithError(error) error { return nil }

// closeWrite finishes one direction of c, or both where there is no other way.
func closeWrite(c io.Closer) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		return
	}
	_ = c.Close()
}
