//go:build linux

package cluster

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// stopGrace is what a daemon gets between SIGTERM and SIGKILL.
const stopGrace = 10 * time.Second

// Daemon is a program of the cluster that a test may stop and start again.
type Daemon struct {
	host    *lab.Host
	command lab.Command

	mu      sync.Mutex
	process *lab.Process
}

func newDaemon(host *lab.Host, command lab.Command) *Daemon {
	return &Daemon{host: host, command: command}
}

// Start starts the program, which lives until it is stopped or the cluster is
// closed. It does not wait until it is ready.
func (d *Daemon) Start() error {
	p, err := d.host.StartCommand(context.Background(), d.command)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.process = p
	return nil
}

// Process returns the process that is running, or ran last; nil before Start.
func (d *Daemon) Process() *lab.Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.process
}

// Stop asks it to end and waits up to 10 seconds, then kills it. Idempotent.
func (d *Daemon) Stop() {
	if p := d.Process(); p != nil {
		p.Stop(stopGrace)
	}
}

// Kill kills it and waits for the end. Idempotent.
func (d *Daemon) Kill() {
	if p := d.Process(); p != nil {
		p.Kill()
	}
}

// ended returns nil as long as the program runs, else its last lines.
func (d *Daemon) ended() error {
	p := d.Process()
	select {
	case <-p.Done():
	default:
		return nil
	}
	lines := p.Lines()
	var last strings.Builder
	for _, line := range lines[max(0, len(lines)-15):] {
		last.WriteString("\n\t" + line.Text)
	}
	return fmt.Errorf("%s ended with exit code %d:%s", d.command.Label, p.ExitCode(), last.String())
}
