//go:build linux

package replicas

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvert-k8s/culvert/test/lab"
)

// pick chooses one of n relays for the nth connection, from somewhere.
type pick func(nth int, from netip.Addr, n int) int

func roundRobin(nth int, _ netip.Addr, n int) int { return nth % n }
func atRandom(_ int, _ netip.Addr, n int) int     { return rand.IntN(n) }

// sticky sends whoever comes from one address to one relay.
func sticky(_ int, from netip.Addr, n int) int {
	last := from.As4()[3]
	return int(last) % n
}

// balancer is one address that stands for several relays. It looks into no byte.
type balancer struct {
	host *lab.Host

	mu    sync.Mutex
	how   pick
	to    []string
	count int
}

// balance starts one on a host.
func balance(t *testing.T, host *lab.Host, how pick) *balancer {
	t.Helper()
	l, err := host.Listen(host.Addr().String() + ":7443")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{host: host, how: how}
	ctx, cancel := context.WithCancel(context.Background())
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			from, err := l.AcceptTCP()
			if err != nil {
				return
			}
			conns.Go(func() { b.carry(ctx, from) })
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); conns.Wait() })
	return b
}

// set says which relays take new connections; those that there are go on.
func (b *balancer) set(to ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.to = to
}

func (b *balancer) become(how pick) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.how = how
}

func (b *balancer) next(from net.Addr) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.to) == 0 {
		return ""
	}
	at, _ := netip.ParseAddrPort(from.String())
	b.count++
	return b.to[b.how(b.count, at.Addr().Unmap(), len(b.to))]
}

func (b *balancer) carry(ctx context.Context, from *net.TCPConn) {
	defer from.Close()
	addr := b.next(from.RemoteAddr())
	if addr == "" {
		return
	}
	dialling, cancel := context.WithTimeout(ctx, 5*time.Second)
	to, err := b.host.Dial(dialling, addr)
	cancel()
	if err != nil {
		return
	}
	defer to.Close()
	defer context.AfterFunc(ctx, func() { from.Close(); to.Close() })()
	var back sync.WaitGroup
	back.Go(func() { pass(from, to) })
	pass(to, from)
	back.Wait()
}

// pass copies one direction to its end, whatever that is.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.SetLinger(0)
		_ = to.Close()
		_ = from.Close()
		return
	}
	_ = to.CloseWrite()
}

// names answers for one name, on a host.
type names struct {
	mu sync.Mutex
	to []netip.Addr
}

// serveDNS starts it at the host's address.
func serveDNS(t *testing.T, host *lab.Host, name string) *names {
	t.Helper()
	n := &names{}
	var conn *net.UDPConn
	err := host.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: host.Addr().AsSlice(), Port: 53})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		buf := make([]byte, 1500)
		for {
			got, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := n.answer(name+".", buf[:got]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	})
	t.Cleanup(func() { conn.Close(); serving.Wait() })
	return n
}

func (n *names) set(to ...netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.to = to
}

func (n *names) answer(name string, question []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	q := m.Questions[0]
	switch {
	case q.Name.String() != name:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		n.mu.Lock()
		for _, a := range n.to {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}, Body: &dnsmessage.AResource{A: a.As4()},
			})
		}
		n.mu.Unlock()
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}
