//go:build linux

package lab

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Namespace is a network namespace of the lab: a host, a pod, or one that
// something else made and [Network.Adopt] took in.
type Namespace struct {
	net   *Network
	label string
	path  string
}

// Name returns the short name that logs, captures and errors use.
func (s *Namespace) Name() string { return s.label }

// NetNS returns the path of the namespace, as nsenter --net= takes it.
func (s *Namespace) NetNS() string { return s.path }

// Network returns the lab that the namespace is part of.
func (s *Namespace) Network() *Network { return s.net }

// Do runs fn on a thread that is inside the namespace, and returns its error.
// Sockets made by fn stay in the namespace and may be used anywhere. fn must not
// start goroutines that rely on the namespace, resolve names, or call t.FailNow.
func (s *Namespace) Do(fn func() error) error { return inNetns(s.path, fn) }

// Listen listens on a TCP address inside the namespace: a literal IP address and
// a port, 0 for any. The caller closes the listener.
func (s *Namespace) Listen(address string) (*net.TCPListener, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", s.label, err)
	}
	var ln *net.TCPListener
	err = s.Do(func() (err error) {
		ln, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", s.label, err)
	}
	return ln, nil
}

// Dial connects to a TCP address from inside the namespace: a literal IP address
// and a port. The caller closes the connection.
func (s *Namespace) Dial(ctx context.Context, address string) (*net.TCPConn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", s.label, err)
	}
	var conn *net.TCPConn
	err = s.Do(func() (err error) {
		var d net.Dialer
		conn, err = d.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", s.label, err)
	}
	return conn, nil
}

// Start runs a program in the namespace until it ends, ctx ends or the Network
// is closed, whichever is first.
func (s *Namespace) Start(ctx context.Context, name string, args ...string) (*Process, error) {
	return s.StartCommand(ctx, Command{Path: name, Args: args})
}

// StartCommand is Start with all settings.
func (s *Namespace) StartCommand(ctx context.Context, command Command) (*Process, error) {
	return s.net.start(ctx, s, command)
}

// Run runs a program in the namespace to its end and returns its standard
// output. The error of a program that fails quotes what it wrote.
func (s *Namespace) Run(ctx context.Context, name string, args ...string) (string, error) {
	return s.RunCommand(ctx, Command{Path: name, Args: args})
}

// RunCommand is Run with all settings, but Command.Stdout, which Run needs itself.
func (s *Namespace) RunCommand(ctx context.Context, command Command) (string, error) {
	var stdout bytes.Buffer
	command.Stdout = &stdout
	p, err := s.StartCommand(ctx, command)
	if err != nil {
		return "", err
	}
	<-p.Done() // ends with ctx: the process is bound to it
	if err := p.exitError(); err != nil {
		return stdout.String(), fmt.Errorf("in %s: %s %s: %w%s",
			s.label, command.Path, strings.Join(command.Args, " "), err, p.log.tail(10))
	}
	return stdout.String(), nil
}

// configure runs a batch of ip(8) commands in the namespace. It goes around the
// list of processes and their logs, since it is not part of what a test does.
func (s *Namespace) configure(ctx context.Context, lines ...string) error {
	p, err := startProcess(ctx, s.path, "", Command{
		Path: "ip", Args: []string{"-batch", "-"},
		Stdin: strings.NewReader(strings.Join(lines, "\n") + "\n"),
	})
	if err != nil {
		return fmt.Errorf("configure %s: %w", s.label, err)
	}
	<-p.Done()
	if err := p.exitError(); err != nil {
		return fmt.Errorf("configure %s: %w%s", s.label, err, p.log.tail(10))
	}
	return nil
}
