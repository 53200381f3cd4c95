//go:build linux

package script

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-k8s/culvert/test/lab"
)

// on is: [!] on HOST PROGRAM ARG... It runs a program to its end. Negated it
// must end with exit code 1, which is how the programs fail; a crash or a data
// race has another one and fails every script.
func on(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Check(errUsage(args))
	}
	s := of(ts)
	host, err := s.host(args[0])
	ts.Check(err)
	limit := strconv.Itoa(int(patience / time.Second))
	line := append([]string{"--kill-after=5", limit, "nsenter", "--net=" + host.NetNS(), "--", s.program(args[1])}, args[2:]...)
	err = ts.Exec("timeout", line...)
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		ts.Fatalf("%v", err)
	case err != nil && (!neg || exit.ExitCode() != 1):
		ts.Fatalf("%s: exit code %d", args[1], exit.ExitCode())
	case err == nil && neg:
		ts.Fatalf("%s: exit code 0, want 1", args[1])
	}
}

// background is: bg NAME HOST PROGRAM ARG... The program runs until it ends by
// itself, is told to by a signal, or the script is over.
func (s *script) background(ts *testscript.TestScript, args []string) error {
	if len(args) < 3 {
		return errUsage(args)
	}
	if _, taken := s.procs[args[0]]; taken {
		return fmt.Errorf("the name %s is taken", args[0])
	}
	host, err := s.host(args[1])
	if err != nil {
		return err
	}
	p, err := host.StartCommand(context.WithoutCancel(s.ctx), lab.Command{
		Path: s.program(args[2]), Args: args[3:], Env: environment(ts), Dir: ts.MkAbs("."), Label: args[0],
	})
	if err != nil {
		return err
	}
	s.procs[args[0]] = p
	return nil
}

// forwarding is the line of port-forward that names a local address.
var forwarding = regexp.MustCompile(`^Forwarding from (\S+) -> \d+$`)

// forward is: forward NAME ARG... It starts port-forward and waits until it
// listens for every pair of ports; then $NAME is the first IPv4 address that it
// said, $NAME_2 the second one, and so on.
func (s *script) forward(ts *testscript.TestScript, args []string) error {
	if len(args) < 3 {
		return errUsage(args)
	}
	name, line := args[0], append([]string{args[0], "client", "culvert", "port-forward"}, args[1:]...)
	if err := s.background(ts, line); err != nil {
		return err
	}
	p := s.procs[name]
	if _, err := p.WaitLine(forwarding, patience); err != nil {
		return err
	}
	// The lines come in one go; the last pair is known by its remote port.
	last := args[len(args)-1]
	if _, remote, ok := strings.Cut(last, ":"); ok {
		last = remote
	}
	if _, err := p.WaitLine(regexp.MustCompile(`^Forwarding from .* -> `+last+`$`), patience); err != nil {
		return err
	}
	found := 0
	for _, l := range p.Lines() {
		m := forwarding.FindStringSubmatch(l.Text)
		if m == nil {
			continue
		}
		at, err := netip.ParseAddrPort(m[1])
		if err != nil {
			return err
		}
		if !at.Addr().Is4() {
			continue
		}
		if found++; found == 1 {
			ts.Setenv(name, at.String())
		}
		ts.Setenv(fmt.Sprintf("%s_%d", name, found), at.String())
		ts.Setenv(fmt.Sprintf("%s_PORT_%d", name, found), strconv.Itoa(int(at.Port())))
	}
	return nil
}

// agent is: agent NAME HOST FLAG... It starts one more agent on a host, with the
// flags of the agent there and then those given, which win.
func (s *script) agent(ts *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return errUsage(args)
	}
	own := s.cluster.Agents[args[1]]
	if own == nil {
		return fmt.Errorf("there is no agent on %s", args[1])
	}
	line := append([]string{args[0], args[1], "culvert-agent"}, own.Args()...)
	return s.background(ts, append(append(line, "--health-listen="), args[2:]...))
}

// broker finds that of a node's agent, which scripts call NODE-broker.
func (s *script) broker(name string) *lab.Broker {
	node, is := strings.CutSuffix(name, "-broker")
	if agent := s.cluster.Agents[node]; is && agent != nil {
		return agent.Broker
	}
	return nil
}

// process finds what a script calls NAME: a program in the background, "relay",
// a node's agent, or its broker.
func (s *script) process(name string) (*lab.Process, error) {
	if p := s.procs[name]; p != nil {
		return p, nil
	}
	switch {
	case s.cluster == nil:
	case name == "relay":
		return s.cluster.Relay.Process, nil
	case s.cluster.Agents[name] != nil:
		return s.cluster.Agents[name].Process, nil
	case s.broker(name) != nil:
		return s.broker(name).Process, nil
	}
	return nil, fmt.Errorf("there is no program %s", name)
}

// line is: line NAME REGEXP. It waits for a line of output, on either stream.
func (s *script) line(ts *testscript.TestScript, args []string) error {
	if len(args) != 2 {
		return errUsage(args)
	}
	p, err := s.process(args[0])
	if err != nil {
		return err
	}
	re, err := regexp.Compile(args[1])
	if err != nil {
		return err
	}
	m, err := p.WaitLine(re, patience)
	if err == nil {
		fmt.Fprintln(ts.Stdout(), m[0])
	}
	return err
}

// output is: output NAME. What the program wrote so far becomes stdout and
// stderr.
func (s *script) output(ts *testscript.TestScript, args []string) error {
	if len(args) != 1 {
		return errUsage(args)
	}
	p, err := s.process(args[0])
	if err != nil {
		return err
	}
	fmt.Fprint(ts.Stdout(), p.Text(lab.Stdout))
	fmt.Fprint(ts.Stderr(), p.Text(lab.Stderr))
	return nil
}

// signal is: signal NAME INT|TERM|QUIT|KILL|STOP|CONT.
func (s *script) signal(_ *testscript.TestScript, args []string) error {
	if len(args) != 2 {
		return errUsage(args)
	}
	p, err := s.process(args[0])
	if err != nil {
		return err
	}
	signals := map[string]syscall.Signal{
		"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "QUIT": syscall.SIGQUIT,
		"KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT,
		"HUP": syscall.SIGHUP,
	}
	sig, ok := signals[args[1]]
	if !ok {
		return errUsage(args)
	}
	return p.Signal(sig)
}

// ended is: ended NAME CODE. It waits for the end of a program, checks its exit
// code, makes its output stdout and stderr, and frees the name.
func (s *script) ended(ts *testscript.TestScript, args []string) error {
	if len(args) != 2 {
		return errUsage(args)
	}
	p, err := s.process(args[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	if err := p.Wait(ctx); ctx.Err() != nil {
		return err
	}
	if err := s.output(ts, args[:1]); err != nil {
		return err
	}
	maps.DeleteFunc(s.procs, func(name string, _ *lab.Process) bool { return name == args[0] })
	if code := strconv.Itoa(p.ExitCode()); code != args[1] {
		return fmt.Errorf("%s ended with exit code %s, want %s\n%s", args[0], code, args[1], p.Text(lab.Stderr))
	}
	return nil
}

// random is: random FILE SIZE.
func (s *script) random(ts *testscript.TestScript, args []string) error {
	if len(args) != 2 {
		return errUsage(args)
	}
	n, err := size(args[1])
	if err != nil {
		return err
	}
	return os.WriteFile(ts.MkAbs(args[0]), noise(int(n)), 0o600)
}
