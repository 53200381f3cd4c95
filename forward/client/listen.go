package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
)

// Accept errors are waited out between these bounds: long enough not to burn a
// core while the process is out of file descriptors, short enough that nobody
// notices when it has some again.
const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// Listener is one pair of ports, bound on one or more local addresses.
type Listener struct {
	ports   Ports
	bound   []netip.AddrPort
	sockets []socket
	skipped []error
}

// socket is what a Listener needs of a *net.TCPListener.
type socket interface {
	AcceptTCP() (*net.TCPConn, error)
	Close() error
}

// address is one local address to listen on.
type address struct {
	ip       netip.Addr
	optional bool // half of "localhost": it is enough if the other half binds
}

// parseAddresses reads kubectl's --address list: IPs, or "localhost" for both
// loopback addresses. The result is sorted as text and free of duplicates; an
// address named explicitly is required even if localhost names it too.
func parseAddresses(list []string) ([]address, error) {
	if len(list) == 0 {
		list = []string{"localhost"}
	}
	required := make(map[netip.Addr]bool)
	for _, s := range list {
		if s == "localhost" {
			for _, ip := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
				if _, named := required[ip]; !named {
					required[ip] = false
				}
			}
			continue
		}
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("address %q: want an IP address or localhost", s)
		}
		required[ip.Unmap()] = true
	}
	out := make([]address, 0, len(required))
	for ip, must := range required {
		out = append(out, address{ip: ip, optional: !must})
	}
	slices.SortFunc(out, func(a, b address) int { return strings.Compare(a.ip.String(), b.ip.String()) })
	return out, nil
}

// CheckAddresses says whether Listen would understand the list.
func CheckAddresses(list []string) error {
	_, err := parseAddresses(list)
	return err
}

// Listen binds p.Local on every address of the list, which holds IP addresses
// and "localhost"; an empty list is localhost. localhost is 127.0.0.1 and ::1
// and succeeds if either binds; every other address must bind. With p.Local 0
// the system chooses one free port and all addresses share it.
//
// The caller owns the Listener: it is closed by Close, or by [Forwarder.Serve].
func Listen(addresses []string, p Ports) (*Listener, error) {
	list, err := parseAddresses(addresses)
	if err != nil {
		return nil, err
	}
	// A port that is free on the first address can be taken on the second, and
	// another program would answer there. A few other numbers are tried first.
	const attempts = 8
	for n := 1; ; n++ {
		l, err := bind(list, p)
		if err != nil {
			return nil, err
		}
		if p.Local != 0 || len(l.Skipped()) == 0 || n == attempts {
			return l, nil
		}
		l.Close()
	}
}

func bind(list []address, p Ports) (*Listener, error) {
	l := &Listener{ports: p}
	var failed severalErrors
	for _, a := range list {
		ln, err := net.ListenTCP(network(a.ip), net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.ip, l.ports.Local)))
		if err != nil {
			failed = append(failed, err)
			if a.optional {
				continue
			}
			l.Close()
			return nil, err
		}
		at := ln.Addr().(*net.TCPAddr).AddrPort()
		l.ports.Local = at.Port()
		l.bound = append(l.bound, netip.AddrPortFrom(a.ip, at.Port()))
		l.sockets = append(l.sockets, ln)
	}
	if len(l.sockets) == 0 {
		return nil, failed
	}
	l.skipped = failed
	return l, nil
}

func network(ip netip.Addr) string {
	if ip.Is4() {
		return "tcp4"
	}
	return "tcp6"
}

// Ports returns the pair, with the local port that was bound.
func (l *Listener) Ports() Ports { return l.ports }

// Addrs returns the bound addresses, sorted as text.
func (l *Listener) Addrs() []netip.AddrPort { return slices.Clone(l.bound) }

// Skipped returns why half of localhost was not bound although the machine has
// it: most likely another program holds the port and will answer there. A
// machine without the address family is not worth a word.
func (l *Listener) Skipped() []error {
	var taken []error
	for _, err := range l.skipped {
		if addrInUse(err) {
			taken = append(taken, err)
		}
	}
	return taken
}

// addrInUse knows the number of Windows too, which its syscall package does
// not map to EADDRINUSE.
func addrInUse(err error) bool {
	const wsaeaddrinuse = syscall.Errno(10048)
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, wsaeaddrinuse)
}

// Close stops listening. Connections that were accepted are not touched.
func (l *Listener) Close() error {
	var errs []error
	for _, s := range l.sockets {
		if err := s.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// serve accepts on every address until ctx ends, and returns when the accept
// loops and every handle they started have returned. handle owns the
// connection. trouble, if not nil, hears the first of a row of accept errors.
func (l *Listener) serve(ctx context.Context, handle func(*net.TCPConn), trouble func(error)) {
	closing, loopsEnded := context.WithCancel(ctx)
	var closer sync.WaitGroup
	closer.Go(func() {
		<-closing.Done()
		_ = l.Close() // nobody is left to hear it
	})
	var all sync.WaitGroup
	for _, s := range l.sockets {
		all.Go(func() { acceptLoop(ctx, s, &all, handle, trouble) })
	}
	all.Wait()
	loopsEnded()
	closer.Wait()
}

// acceptLoop ends with ctx only: whatever Accept says, most of all that the
// process has no file descriptor left, the local port is still ours and the
// next connection may succeed.
func acceptLoop(ctx context.Context, s socket, all *sync.WaitGroup, handle func(*net.TCPConn), trouble func(error)) {
	pause := time.Duration(0)
	for {
		conn, err := s.AcceptTCP()
		if err == nil {
			pause = 0
			all.Go(func() { handle(conn) })
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if pause == 0 && trouble != nil {
			trouble(err)
		}
		pause = min(max(2*pause, acceptPauseMin), acceptPauseMax)
		if !connect.Sleep(ctx, pause) {
			return
		}
	}
}
