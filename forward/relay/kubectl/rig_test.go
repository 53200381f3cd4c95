package kubectl

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// pod is a Session whose connections are made by dial. Without one they are TCP
// connections to the port on this host.
type pod struct {
	dial   func(ctx context.Context, port uint16) (Connection, error)
	joiner forward.Joiner

	once   sync.Once
	closed chan struct{}
	why    error

	mu    sync.Mutex
	joins []error // what every Join returned
	doors map[string]int
}

func newPod(dial func(ctx context.Context, port uint16) (Connection, error)) *pod {
	return &pod{dial: dial, closed: make(chan struct{}), doors: make(map[string]int)}
}

func (p *pod) Dial(ctx context.Context, port uint16, door string) (Connection, error) {
	p.mu.Lock()
	p.doors[door]++
	p.mu.Unlock()
	if p.dial != nil {
		return p.dial(ctx, port)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}).String())
	if err != nil {
		return nil, &stream.Error{Code: stream.NotListening, Text: "connection refused"}
	}
	return &link{pod: p, conn: forward.TCP(c.(*net.TCPConn))}, nil
}

func (p *pod) Over() <-chan struct{} { return p.closed }

func (p *pod) Why() error { return p.why }

func (p *pod) end(why error) {
	p.once.Do(func() {
		p.why = why
		close(p.closed)
	})
}

func (p *pod) joined() []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]error(nil), p.joins...)
}

// link joins what it was made with.
type link struct {
	pod  *pod
	conn forward.Conn
}

func (l *link) Join(ctx context.Context, client forward.Conn) error {
	_, err := l.pod.joiner.Join(ctx, client, l.conn, nil)
	l.pod.mu.Lock()
	defer l.pod.mu.Unlock()
	l.pod.joins = append(l.pod.joins, err)
	return err
}

func (l *link) Close() error { return l.conn.Close() }

// given is a Connection that hands the client's side over to the test.
type given struct {
	conns chan forward.Conn
	done  chan struct{}
}

func newGiven() *given {
	return &given{conns: make(chan forward.Conn, 1), done: make(chan struct{})}
}

func (g *given) Join(ctx context.Context, client forward.Conn) error {
	g.conns <- client
	select {
	case <-g.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (g *given) Close() error { return nil }

// serve runs a Handler for one pod behind a real HTTP server. Its end waits for all
// sessions.
func serve(t testing.TB, cfg Config, p *pod, withTLS bool) *httptest.Server {
	t.Helper()
	h := New(cfg)
	var wg sync.WaitGroup
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wg.Add(1)
		defer wg.Done()
		ports, err := ParsePorts(r.URL.Query())
		if err != nil {
			WriteStatus(w, r, http.StatusBadRequest, "BadRequest", err.Error())
			return
		}
		h.ServeSession(w, r, p, ports)
	}))
	if withTLS {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(func() {
		p.end(errors.New("the test is over"))
		srv.Close()
		wg.Wait()
	})
	return srv
}

// listen serves every connection to a port of this host with f, in a goroutine of
// its own, until the test ends.
func listen(t testing.TB, f func(c *net.TCPConn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		open []net.Conn
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func echo(c *net.TCPConn) {
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	_ = c.CloseWrite()
}
