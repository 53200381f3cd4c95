//go:build linux

package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// holdings are what a process has of the machine.
type holdings struct {
	descriptors, namespaces, threads int
	goroutines, streams              int // -1 where a program does not tell
	rss                              int // bytes
}

// Threads and memory that a process once needed are not all given back: the
// runtime of Go keeps some of both for later.
const (
	spareThreads    = 24
	spareMemory     = 64 << 20
	spareGoroutines = 4 // a look-up or a check that happens to run
)

// within tells whether nothing has grown since it was first looked at.
func (h holdings) within(first holdings) bool {
	return h.descriptors <= first.descriptors && h.namespaces <= first.namespaces &&
		h.threads <= first.threads+spareThreads && h.rss <= 2*first.rss+spareMemory &&
		h.goroutines <= first.goroutines+spareGoroutines && h.streams <= 0
}

func (h holdings) String() string {
	return fmt.Sprintf("%d descriptors, %d namespaces, %d threads, %d goroutines, %d streams, %d MiB",
		h.descriptors, h.namespaces, h.threads, h.goroutines, h.streams, h.rss>>20)
}

// program is a process of the rig that is looked at.
type program struct {
	name    string
	process *lab.Process
	metrics func(context.Context, string) (int, string, error) // nil: it has none
}

func (r *rig) programs() []program {
	all := []program{{"relay", r.Relay.Process, r.Relay.Get}}
	for _, node := range nodes() {
		all = append(all, program{"agent of " + node, r.Agents[node].Process, r.Agents[node].Get})
	}
	for _, name := range []string{near, far} {
		for _, node := range nodes() {
			all = append(all, program{"culvert of " + name + " to " + node, r.users[name].forwards[node].Process, nil})
		}
	}
	return all
}

// noteHoldings notes what all processes hold while nothing goes on, once they hold
// no more than a moment before.
func (r *rig) noteHoldings(t *testing.T) {
	t.Helper()
	for _, p := range r.programs() {
		var last holdings
		for range 50 {
			now, err := p.look(t.Context())
			if err != nil {
				t.Fatalf("look at %s: %v", p.name, err)
			}
			if now.within(last) {
				break
			}
			last = now
			time.Sleep(50 * time.Millisecond)
		}
		r.clean[p.name] = last
	}
}

// nothingLeft waits until all processes are back at what they held at first. The
// load must be quiet.
func (r *rig) nothingLeft(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for _, p := range r.programs() {
		for {
			now, err := p.look(t.Context())
			if err == nil && now.within(r.clean[p.name]) {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s holds %s (%v); at first %s", p.name, now, err, r.clean[p.name])
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func (p *program) look(ctx context.Context) (holdings, error) {
	h := holdings{goroutines: -1, streams: -1}
	dir := filepath.Join("/proc", strconv.Itoa(p.process.Pid()))
	open, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return h, err
	}
	for _, entry := range open {
		target, _ := os.Readlink(filepath.Join(dir, "fd", entry.Name())) // it may be closed by now
		if strings.HasPrefix(target, "net:[") || strings.HasPrefix(target, "/") && strings.Contains(target, "netns") {
			h.namespaces++
		}
	}
	h.descriptors = len(open)
	threads, err := os.ReadDir(filepath.Join(dir, "task"))
	if err != nil {
		return h, err
	}
	h.threads = len(threads)
	statm, err := os.ReadFile(filepath.Join(dir, "statm"))
	if err != nil {
		return h, err
	}
	if fields := strings.Fields(string(statm)); len(fields) > 1 {
		pages, _ := strconv.Atoi(fields[1]) // a file of the kernel
		h.rss = pages * os.Getpagesize()
	}
	if p.metrics == nil {
		return h, nil
	}
	_, text, err := p.metrics(ctx, "/metrics")
	h.goroutines, h.streams = metric(text, "go_goroutines"), max(metric(text, "culvert_relay_streams"), metric(text, "culvert_agent_streams"))
	return h, err
}

// metric finds a metric without labels; -1 if it is not there.
func metric(text, name string) int {
	match := regexp.MustCompile(`(?m)^` + name + ` (\d+)$`).FindStringSubmatch(text)
	if match == nil {
		return -1
	}
	n, _ := strconv.Atoi(match[1]) // digits
	return n
}
