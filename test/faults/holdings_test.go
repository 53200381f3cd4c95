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
	text := fmt.Sprintf("%d descriptors, %d namespaces, %d threads, %d MiB", h.descriptors, h.namespaces, h.threads, h.rss>>20)
	if h.goroutines >= 0 {
		text += fmt.Sprintf(", %d goroutines, %d streams", h.goroutines, h.streams)
	}
	return text
}

// program is a process of the rig that is looked at.
type program struct {
	name    string
	process *lab.Process
	host    *lab.Host
	metrics func(context.Context, string) (int, string, error) // nil: it has none
}

// debugListen is where relay and agents tell of their goroutines.
const debugListen = "127.0.0.1:6060"

func (r *rig) programs() []program {
	if r.members != nil {
		return r.members()
	}
	all := []program{{"relay", r.Relay.Process, r.Relay.Host, r.Relay.Get}}
	for _, node := range nodes() {
		all = append(all, program{"agent of " + node, r.Agents[node].Process, r.Agents[node].Host, r.Agents[node].Get})
	}
	for _, node := range nodes() {
		if b := r.Agents[node].Broker; b != nil {
			all = append(all, program{"broker of " + node, b.Process, r.Agents[node].Host, nil})
		}
	}
	return append(all, r.clients()...)
}

// clients are the forwards of all users.
func (r *rig) clients() []program {
	var all []program
	for _, name := range []string{near, far} {
		for _, node := range nodes() {
			all = append(all, program{"culvert of " + name + " to " + node, r.users[name].forwards[node].Process, r.Client, nil})
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
		for range 200 {
			now, err := p.look(t.Context())
			if err != nil {
				t.Fatalf("look at %s: %v", p.name, err)
			}
			grown := !now.within(last)
			last = now
			if !grown && now.namespaces == 0 { // an agent keeps one open for a moment
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		r.clean[p.name] = last
	}
}

// nothingLeft waits until all processes are back at what they held at first. The
// load must be quiet.
func (r *rig) nothingLeft(t *testing.T) {
	t.Helper()
	for _, p := range r.programs() {
		r.back(t, p)
	}
}

// back waits until a process is back at what it held at first.
func (r *rig) back(t *testing.T, p program) {
	t.Helper()
	// Go gives memory back over minutes, and collects what there is after two at last.
	for deadline := time.Now().Add(3 * patience); ; time.Sleep(50 * time.Millisecond) {
		now, err := p.look(t.Context())
		r.last[p.name] = now
		if err == nil && now.within(r.clean[p.name]) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s holds %s (%v); at first %s", p.name, now, err, r.clean[p.name])
			return
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
	if err != nil {
		return h, err
	}
	h.streams = max(metric(text, `culvert_relay_streams `), metric(text, `culvert_agent_streams `))
	_, text, err = p.host.HTTPGet(ctx, "http://"+debugListen+"/debug/pprof/goroutine?debug=1")
	h.goroutines = metric(text, `goroutine profile: total `)
	return h, err
}

// metric finds the number after a text at the beginning of a line; -1 if there is
// none.
func metric(text, name string) int {
	match := regexp.MustCompile(`(?m)^` + name + `(\d+)$`).FindStringSubmatch(text)
	if match == nil {
		return -1
	}
	n, _ := strconv.Atoi(match[1]) // digits
	return n
}
