//go:build linux

package replicas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

var forwarding = regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) -> 7000$`)

// forward starts culvert port-forward to the pod of a node, and returns where it
// listens.
func (s *site) forward(node string, relays ...string) (*lab.Process, string) {
	s.t.Helper()
	args := []string{"--relay-ca", s.pki.file("ca.pem"), "--client-certificate", s.pki.file("alice.pem"), "--client-key", s.pki.file("alice.key")}
	for _, r := range relays {
		args = append(args, "--relay", r)
	}
	p := s.start("client", "culvert-"+node, s.bin.Client, append(args, "port-forward", "echo-"+node, ":7000")...)
	m, err := p.WaitLine(forwarding, patience)
	if err != nil {
		s.t.Fatal(err)
	}
	return p, m[1]
}

// echo makes a connection, has a text come back, and ends it well.
func (s *site) echo(ctx context.Context, address, text string) error {
	c, err := s.net.Host("client").Dial(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != text {
		err = fmt.Errorf("got %q, want %q", got, text)
	}
	return err
}

// load makes connections, one after the other to each address, until what it
// returns is called, which claims that none has failed.
func (s *site) load(addresses ...string) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	var workers sync.WaitGroup
	var mu sync.Mutex
	served, failed, slowest := 0, 0, time.Duration(0)
	var last error
	for _, addr := range addresses {
		workers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				began := time.Now()
				err := s.echo(context.WithoutCancel(ctx), addr, fmt.Sprintf("connection %d", n))
				mu.Lock()
				slowest = max(slowest, time.Since(began))
				if err == nil {
					served++
				} else {
					failed++
					last = err
				}
				mu.Unlock()
				time.Sleep(10 * time.Millisecond) // leaves something of the machine to others
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		workers.Wait()
		s.t.Logf("%d connections served, %d failed, the slowest took %v", served, failed, slowest.Round(time.Millisecond))
		if failed > 0 || served == 0 {
			s.t.Errorf("%d of %d connections failed, the last with %v", failed, served+failed, last)
		}
	})
	s.t.Cleanup(stop)
	return stop
}

// hold opens a connection that has got an answer and goes on.
func (s *site) hold(address string) *net.TCPConn {
	s.t.Helper()
	c, err := s.net.Host("client").Dial(s.t.Context(), address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	if _, err := io.WriteString(c, "x"); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// several holds n connections to each address.
func (s *site) several(n int, addresses ...string) []*net.TCPConn {
	s.t.Helper()
	var all []*net.TCPConn
	for _, addr := range addresses {
		for range n {
			all = append(all, s.hold(addr))
		}
	}
	return all
}

// wasCut waits until a connection is over, which must be by a reset.
func (s *site) wasCut(c *net.TCPConn) {
	s.t.Helper()
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, syscall.ECONNRESET) {
		s.t.Errorf("a connection that was cut ended after %d bytes with %v, want %v", n, err, syscall.ECONNRESET)
	}
}

// endsWell ends a connection that is held, with a word in either direction.
func (s *site) endsWell(c *net.TCPConn) {
	s.t.Helper()
	_, err := io.WriteString(c, "bye")
	if err == nil {
		err = c.CloseWrite()
	}
	if got, rerr := io.ReadAll(c); err != nil || rerr != nil || string(got) != "bye" {
		s.t.Errorf("a connection that ended within the drain: %v, %q, %v", err, got, rerr)
	}
}
