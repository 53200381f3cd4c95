//go:build linux

package script

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-k8s/culvert/test/lab"
)

// daemon is the relay or an agent.
type daemon interface {
	Start(ctx context.Context) error
	Get(ctx context.Context, path string) (status int, body string, err error)
}

// daemon finds the relay or the agent of a node.
func (s *script) daemon(name string) (daemon, *lab.Process, error) {
	p, err := s.process(name)
	switch {
	case err != nil:
		return nil, nil, err
	case name == "relay":
		return s.cluster.Relay, p, nil
	case s.cluster.Agents[name] != nil:
		return s.cluster.Agents[name], p, nil
	case s.broker(name) != nil:
		return s.broker(name), p, nil
	}
	return nil, nil, fmt.Errorf("%s is neither the relay nor the agent or the broker of a node", name)
}

// crash is: crash relay|NODE... They get SIGKILL, and are gone when it returns.
func (s *script) crash(_ *testscript.TestScript, args []string) error {
	for _, name := range args {
		_, p, err := s.daemon(name)
		if err != nil {
			return err
		}
		p.Kill()
	}
	return nil
}

// stop is: stop relay|NODE. It gets SIGTERM and must end with exit code 0.
func (s *script) stop(_ *testscript.TestScript, args []string) error {
	if len(args) != 1 {
		return errUsage(args)
	}
	_, p, err := s.daemon(args[0])
	if err != nil {
		return err
	}
	return p.Stop(patience)
}

// start is: start relay|NODE. It returns when the daemon says that it is ready,
// and every daemon is: an agent may have lost its relay meanwhile.
func (s *script) start(_ *testscript.TestScript, args []string) error {
	if len(args) != 1 {
		return errUsage(args)
	}
	d, _, err := s.daemon(args[0])
	if err != nil {
		return err
	}
	if err := d.Start(s.ctx); err != nil {
		return err
	}
	for name, agent := range s.cluster.Agents {
		if err := s.await(agent.Process, func(ctx context.Context) error {
			status, _, err := agent.Get(ctx, "/readyz")
			if err == nil && status != 200 {
				err = fmt.Errorf("agent of %s: /readyz says %d", name, status)
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// await repeats look until it returns nil, at most for patience and as long as
// the process lives; a process that was ended before is not waited for.
func (s *script) await(p *lab.Process, look func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	for {
		select {
		case <-p.Done():
			return nil
		default:
		}
		err := look(ctx)
		if err == nil {
			return nil
		}
		if pause(ctx) != nil {
			return err
		}
	}
}

// metric is: metric relay|NODE NAME VALUE. It waits until the metric has the
// value; a metric that is not there counts as 0.
func (s *script) metric(_ *testscript.TestScript, args []string) error {
	if len(args) != 3 {
		return errUsage(args)
	}
	d, p, err := s.daemon(args[0])
	if err != nil {
		return err
	}
	return s.await(p, func(ctx context.Context) error {
		_, text, err := d.Get(ctx, "/metrics")
		if err != nil {
			return err
		}
		if got := value(text, args[1]); got != args[2] {
			return fmt.Errorf("%s of %s is %s, want %s", args[1], args[0], got, args[2])
		}
		return nil
	})
}

// value finds a metric in the text format of Prometheus.
func value(text, name string) string {
	for line := range strings.Lines(text) {
		if got, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			return got
		}
	}
	return "0"
}

// resources are what a process holds of the machine.
type resources struct {
	fds, threads int
	rss          int // bytes
}

// usage is: usage note|check NAME... To check waits until each process holds no
// more than it did when it was noted: the same descriptors, the same threads and
// memory but for what the runtime keeps for later.
func (s *script) usage(ts *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return errUsage(args)
	}
	for _, name := range args[1:] {
		p, err := s.process(name)
		if err != nil {
			return err
		}
		switch args[0] {
		case "note":
			if s.noted[name], err = measure(p.Pid()); err != nil {
				return err
			}
			ts.Logf("%s: %+v", name, s.noted[name])
		case "check":
			if err := s.returns(ts, name, p); err != nil {
				return err
			}
		default:
			return errUsage(args)
		}
	}
	return nil
}

// returns waits until a process is back at what was noted of it.
func (s *script) returns(ts *testscript.TestScript, name string, p *lab.Process) error {
	before := s.noted[name]
	const spareThreads = 32 // the runtime keeps those it once needed while the cores were taken
	spareMemory := 64 << 20
	if raceDetector {
		spareMemory = 512 << 20 // it never gives back what it keeps for each goroutine there was
	}
	err := s.await(p, func(context.Context) error {
		now, err := measure(p.Pid())
		if err != nil {
			return err
		}
		if now.fds > before.fds || now.threads > before.threads+spareThreads || now.rss > 2*before.rss+spareMemory {
			return fmt.Errorf("%s holds %+v, before it held %+v", name, now, before)
		}
		ts.Logf("%s: %+v", name, now)
		return nil
	})
	if err == nil {
		err = alive(p)
	}
	return err
}

func alive(p *lab.Process) error {
	select {
	case <-p.Done():
		return fmt.Errorf("process %d has ended", p.Pid())
	default:
		return nil
	}
}

// measure counts what a process holds.
func measure(pid int) (resources, error) {
	var r resources
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	for name, count := range map[string]*int{"fd": &r.fds, "task": &r.threads} {
		entries, err := os.ReadDir(filepath.Join(dir, name))
		if err != nil {
			return r, err
		}
		*count = len(entries)
	}
	text, err := os.ReadFile(filepath.Join(dir, "statm"))
	if err != nil {
		return r, err
	}
	if fields := strings.Fields(string(text)); len(fields) > 1 {
		pages, err := strconv.Atoi(fields[1])
		r.rss = pages * os.Getpagesize()
		return r, err
	}
	return r, fmt.Errorf("%s/statm is %q", dir, text)
}

// goroutines is: goroutines NAME MAX. It ends the process with SIGQUIT, which
// makes it list its goroutines, and counts them.
func (s *script) goroutines(ts *testscript.TestScript, args []string) error {
	if len(args) != 2 {
		return errUsage(args)
	}
	limit, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	p, err := s.process(args[0])
	if err != nil {
		return err
	}
	if err := p.Signal(syscall.SIGQUIT); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
	defer cancel()
	_ = p.Wait(ctx) // the exit code says no more than that it was the signal
	n := 0
	for _, line := range p.Lines() {
		if line.From == lab.Stderr && strings.HasPrefix(line.Text, "goroutine ") {
			n++
		}
	}
	ts.Logf("%s: %d goroutines", args[0], n)
	if n == 0 || n > limit {
		return fmt.Errorf("%s has %d goroutines, want 1 to %d", args[0], n, limit)
	}
	return nil
}
