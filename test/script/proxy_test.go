//go:build linux

package script

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-k8s/culvert/test/lab"
)

// connectProxy is an HTTP proxy on a host that knows CONNECT only.
type connectProxy struct {
	host   *lab.Host
	ln     *net.TCPListener
	refuse bool
	all    sync.WaitGroup

	mu     sync.Mutex
	seen   []string
	conns  []net.Conn
	closed bool
}

// proxy is:
//
//	proxy serve NAME HOST ADDRESS [refuse]
//	proxy saw NAME TARGET          waits until it was asked for TARGET
func (s *script) proxy(_ *testscript.TestScript, args []string) error {
	switch {
	case len(args) >= 4 && args[0] == "serve":
		host, err := s.host(args[2])
		if err != nil {
			return err
		}
		ln, err := host.Listen(args[3])
		if err != nil {
			return err
		}
		p := &connectProxy{host: host, ln: ln, refuse: slices.Contains(args, "refuse")}
		p.all.Go(func() { p.serve(s.ctx) })
		s.proxies[args[1]] = p
		return nil
	case len(args) == 3 && args[0] == "saw" && s.proxies[args[1]] != nil:
		ctx, cancel := context.WithTimeout(s.ctx, patience)
		defer cancel()
		p := s.proxies[args[1]]
		for !p.saw(args[2]) {
			if pause(ctx) != nil {
				return fmt.Errorf("proxy %s was never asked for %s", args[1], args[2])
			}
		}
		return nil
	}
	return errUsage(args)
}

func (p *connectProxy) saw(target string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.seen, target)
}

// serve takes connections until close.
func (p *connectProxy) serve(ctx context.Context) {
	for {
		c, err := p.ln.AcceptTCP()
		if err != nil {
			return
		}
		p.keep(c)
		p.all.Go(func() {
			defer c.Close()
			_ = p.pass(ctx, c) // its peers notice
		})
	}
}

// keep remembers a connection that close has to end.
func (p *connectProxy) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	if p.closed {
		_ = c.Close()
	}
}

// pass answers one request and copies until one side ends.
func (p *connectProxy) pass(ctx context.Context, c *net.TCPConn) error {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.seen = append(p.seen, req.Host)
	p.mu.Unlock()
	if p.refuse || req.Method != http.MethodConnect {
		return write(c, []byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"))
	}
	to, err := p.host.Dial(ctx, req.Host)
	if err != nil {
		return write(c, []byte("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"))
	}
	defer to.Close()
	p.keep(to)
	if err := write(c, []byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Time{})
	p.all.Go(func() {
		_, _ = io.Copy(c, to)
		_ = c.Close()
	})
	_, err = io.Copy(to, r)
	return err
}

// close ends everything and waits for it.
func (p *connectProxy) close() {
	_ = p.ln.Close()
	p.mu.Lock()
	p.closed = true
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.all.Wait()
}
