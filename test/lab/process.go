//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long Close gives a process between SIGTERM and SIGKILL.
const stopGrace = 5 * time.Second

// Command says what to run in a namespace.
type Command struct {
	// Path is the program: a path, or a name looked up in PATH. Required.
	Path string
	// Args are its arguments, without the program's own name.
	Args []string
	// Env is added to the environment of the test process.
	Env []string
	// Dir is the working directory; empty means that of the test process.
	Dir string
	// Stdin is what the process reads; nil means an empty file.
	Stdin io.Reader
	// Stdout, when not nil, gets standard output byte for byte; it is then
	// neither kept as lines nor written to the log.
	Stdout io.Writer
	// Label names the process in errors and its log file; empty means the base
	// name of Path.
	Label string
}

// Process is one program running in a namespace of the lab. Its output is kept
// line by line and written to a log file beside the other artefacts. It ends at
// the latest with the Network, and with the test process however that ends.
type Process struct {
	label string
	log   *outputLog
	done  chan struct{}

	mu     sync.Mutex
	pid    int
	reaped bool
	err    error // set before done is closed
}

// startProcess runs command inside the namespace at path. ctx bounds the life of
// the process: when it ends, the whole process group is killed.
func startProcess(ctx context.Context, path, logFile string, command Command) (*Process, error) {
	if command.Label == "" {
		command.Label = filepath.Base(command.Path)
	}
	log, err := newOutputLog(logFile)
	if err != nil {
		return nil, err
	}
	args := append([]string{"--net=" + path, "--", command.Path}, command.Args...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Dir, cmd.Stdin = command.Dir, command.Stdin
	if len(command.Env) > 0 {
		cmd.Env = append(os.Environ(), command.Env...)
	}
	stdout, stderr := log.writer(Stdout), log.writer(Stderr)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if command.Stdout != nil {
		cmd.Stdout = command.Stdout
	}
	// A grandchild that keeps the pipes open must not hold Wait back.
	cmd.WaitDelay = 2 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &Process{label: command.Label, log: log, done: make(chan struct{})}
	cmd.Cancel = func() error { return p.signalGroup(syscall.SIGKILL) }

	started := make(chan error, 1)
	go func() { // waited for through done
		defer close(p.done)
		p.run(cmd, started)
		stdout.flush()
		stderr.flush()
		log.close()
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("start %s: %w", p.label, err)
	}
	return p, nil
}

// run starts cmd and waits for it on one thread, because the parent death signal
// is sent when the thread that forked ends, not the process.
func (p *Process) run(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.mu.Lock()
	err := cmd.Start()
	if err == nil {
		p.pid = cmd.Process.Pid
	} else {
		p.reaped, p.err = true, err
	}
	p.mu.Unlock()
	started <- err
	if err != nil {
		return
	}
	// Wait without reaping: as long as the process is a zombie its group number
	// cannot belong to anybody else, so its children can be killed safely.
	for unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	p.mu.Lock()
	unix.Kill(-p.pid, unix.SIGKILL)
	p.reaped = true
	p.mu.Unlock()
	err = cmd.Wait()
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
}

// Enter returns command as it must be started to be in the mount and host name
// namespaces of p. Its working directory is then the root directory. A nil p is
// the test process, which needs nothing.
func (p *Process) Enter(command Command) Command {
	if p == nil {
		return command
	}
	if command.Label == "" {
		command.Label = filepath.Base(command.Path)
	}
	command.Args = append([]string{
		"--target", strconv.Itoa(p.pid), "--mount", "--uts", "--", command.Path,
	}, command.Args...)
	command.Path = "nsenter"
	return command
}

// Pid returns the process id, also after the process ended.
func (p *Process) Pid() int { return p.pid }

// Done is closed when the process has ended and all its output is kept.
func (p *Process) Done() <-chan struct{} { return p.done }

// ended tells whether the process has ended.
func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Wait waits for the process to end and returns nil for exit code 0, an
// *exec.ExitError for any other end, or the context's error while it still runs.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.exitError()
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", p.label, context.Cause(ctx))
	}
}

func (p *Process) exitError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", p.label, p.err)
}

// ExitCode waits for the process and returns its exit code, or -1 if a signal ended it.
func (p *Process) ExitCode() int {
	<-p.done
	var exit *exec.ExitError
	switch err := p.exitError(); {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		return -1
	}
}

// Signal sends sig to the process alone, not to its children. A process that
// has ended gives os.ErrProcessDone.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return unix.Kill(p.pid, sig)
}

func (p *Process) signalGroup(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped || p.pid == 0 {
		return os.ErrProcessDone
	}
	return unix.Kill(-p.pid, sig)
}

// Kill kills the process and its group and waits for the end. Idempotent.
func (p *Process) Kill() {
	p.signalGroup(syscall.SIGKILL)
	<-p.done
}

// Stop sends SIGTERM and waits up to grace for the process to end, then kills
// it. It returns what Wait returns. Idempotent.
func (p *Process) Stop(grace time.Duration) error {
	p.Signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.Kill()
	}
	return p.exitError()
}

// WaitLine waits for an output line, on either stream, that re matches, starting
// with the first line ever written. It returns the match and its groups. When
// the process ends or timeout passes first the error quotes the last lines.
func (p *Process) WaitLine(re *regexp.Regexp, timeout time.Duration) ([]string, error) {
	return p.WaitLineFrom(0, re, timeout)
}

// WaitLineFrom is WaitLine for the lines after the first mark ones; see Mark.
func (p *Process) WaitLineFrom(mark int, re *regexp.Regexp, timeout time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	match, err := p.log.wait(ctx, mark, re)
	if err != nil {
		return nil, fmt.Errorf("%s: wait for line %q: %w", p.label, re, err)
	}
	return match, nil
}

// Mark returns how many lines there are so far, for WaitLineFrom.
func (p *Process) Mark() int { return p.log.count() }

// Lines returns a copy of all lines kept so far, in the order they came.
func (p *Process) Lines() []Line { return p.log.snapshot() }

// Text returns the lines of one stream so far, each with its newline.
func (p *Process) Text(from Origin) string { return p.log.text(from) }
