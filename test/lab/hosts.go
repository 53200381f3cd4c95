//go:build linux

package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxHosts is how many hosts a /24 has room for.
const maxHosts = 250

// hostName is what a host or pod may be called: the names become file names.
var hostName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)

// Config says what a Network is made of.
type Config struct {
	// Hosts are the names of the hosts, at most 250, each once.
	Hosts []string
	// Artifacts is the directory for process logs and captures; it must exist.
	// Empty means the work directory, which Close removes.
	Artifacts string
}

// Network is a bridge in a namespace of its own with hosts plugged into it. It
// is not connected to any other network of the machine, so that any number of
// them can exist at once.
type Network struct {
	dir       string // work directory: namespaces and scratch files
	artifacts string
	prefix    netip.Prefix // of the hosts
	podNet    [2]byte      // the first two bytes of every pod address
	bridge    *Namespace
	hosts     map[string]*Host
	order     []*Host
	reaper    *reaper

	mu      sync.Mutex
	closed  bool
	serial  int
	procs   map[*Process]*Namespace
	atClose []func() error
}

// ErrClosed reports the use of a Network after Close.
var ErrClosed = errors.New("lab network is closed")

// New builds a network. The caller closes it. It needs root.
func New(ctx context.Context, cfg Config) (*Network, error) {
	if len(cfg.Hosts) > maxHosts {
		return nil, fmt.Errorf("make lab network: %d hosts, at most %d", len(cfg.Hosts), maxHosts)
	}
	dir, err := os.MkdirTemp("", "culvert-lab-")
	if err != nil {
		return nil, fmt.Errorf("make lab network: %w", err)
	}
	n := &Network{
		dir: dir, artifacts: cfg.Artifacts,
		hosts: map[string]*Host{}, procs: map[*Process]*Namespace{},
	}
	// The subnets differ only so that captures of two labs can be told apart.
	var pick [2]byte
	rand.Read(pick[:])
	n.prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64 + pick[0]%64, pick[1], 0}), 24)
	n.podNet = [2]byte{10, 128 + pick[0]%64}
	if n.artifacts == "" {
		n.artifacts = dir
	}
	if n.reaper, err = startReaper(dir); err == nil {
		err = n.build(ctx, cfg.Hosts)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make lab network: %w", err), n.Close())
	}
	return n, nil
}

func (n *Network) build(ctx context.Context, names []string) error {
	if err := os.Mkdir(filepath.Join(n.dir, "net"), 0o755); err != nil {
		return err
	}
	n.bridge = n.Adopt("bridge", filepath.Join(n.dir, "net", "bridge"))
	if err := n.bridge.create(); err != nil {
		return err
	}
	err := n.bridge.configure(ctx,
		"link set lo up", "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set br0 up")
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := n.addHost(ctx, name); err != nil {
			return err
		}
	}
	for _, h := range n.order {
		if err := n.routePods(ctx, h); err != nil {
			return err
		}
	}
	return n.bridge.waitForwarding(ctx, len(n.order))
}

// create makes the namespace. IPv6 stays on for loopback only: elsewhere its
// neighbour discovery would put packets into captures that nobody sent.
func (s *Namespace) create() error {
	if err := makeNetns(s.path); err != nil {
		return err
	}
	return s.Do(func() error {
		const off = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
		if _, err := os.Stat(off); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return os.WriteFile(off, []byte("1"), 0)
	})
}

// waitForwarding waits until count ports of the namespace's bridges forward.
func (s *Namespace) waitForwarding(ctx context.Context, count int) error {
	for {
		var out strings.Builder
		p, err := startProcess(ctx, s.path, "", Command{Path: "bridge", Args: []string{"link"}, Stdout: &out})
		if err != nil {
			return err
		}
		<-p.Done()
		if err := p.exitError(); err != nil {
			return fmt.Errorf("wait for bridge of %s: %w%s", s.label, err, p.log.tail(10))
		}
		if strings.Count(out.String(), "state forwarding") >= count {
			return nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("wait for bridge of %s: %w", s.label, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Adopt names a namespace that exists at path, so that the lab can run programs,
// capture and dial in it. The lab does not delete it.
func (n *Network) Adopt(label, path string) *Namespace {
	return &Namespace{net: n, label: label, path: path}
}

// Dir returns the work directory. Files and mounts below it are removed by Close
// and, should the test process be killed, by the reaper.
func (n *Network) Dir() string { return n.dir }

// Artifacts returns the directory of logs and captures.
func (n *Network) Artifacts() string { return n.artifacts }

// Host returns the host of that name; it panics if there is none, which is a
// mistake in the test.
func (n *Network) Host(name string) *Host {
	h, ok := n.hosts[name]
	if !ok {
		panic("lab network has no host " + name)
	}
	return h
}

// Hosts returns all hosts in the order of Config.Hosts.
func (n *Network) Hosts() []*Host { return append([]*Host(nil), n.order...) }

// OnClose has fn called by Close, before the remaining processes are stopped;
// the function added last is called first.
func (n *Network) OnClose(fn func() error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.atClose = append(n.atClose, fn)
}

// nextSerial numbers what needs a unique name within the network.
func (n *Network) nextSerial() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.serial++
	return n.serial
}

func (n *Network) start(ctx context.Context, s *Namespace, command Command) (*Process, error) {
	if command.Label == "" {
		command.Label = filepath.Base(command.Path)
	}
	log := fmt.Sprintf("%03d-%s-%s.log", n.nextSerial(), s.label, command.Label)
	p, err := startProcess(ctx, s.path, filepath.Join(n.artifacts, log), command)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	closed := n.closed
	for old := range n.procs { // a long run must not gather every process it ever had
		select {
		case <-old.done:
			delete(n.procs, old)
		default:
		}
	}
	n.procs[p] = s
	n.mu.Unlock()
	if closed {
		p.Kill()
		return nil, fmt.Errorf("start %s: %w", command.Label, ErrClosed)
	}
	return p, nil
}

// processes returns the processes started in s, or all when s is nil.
func (n *Network) processes(s *Namespace) []*Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []*Process
	for p, in := range n.procs {
		if s == nil || s == in {
			found = append(found, p)
		}
	}
	return found
}

// stopAll stops processes side by side and waits for all of them.
func stopAll(processes []*Process, grace time.Duration) {
	var wg sync.WaitGroup
	for _, p := range processes {
		wg.Go(func() { p.Stop(grace) })
	}
	wg.Wait()
}

// Close stops everything that runs in the network and removes all of it but the
// artefacts. Idempotent.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	atClose := n.atClose
	n.mu.Unlock()
	var errs []error
	for _, a := range slices.Backward(atClose) {
		errs = append(errs, a())
	}
	stopAll(n.processes(nil), stopGrace)
	for _, h := range n.order {
		errs = append(errs, h.remove())
	}
	if n.bridge != nil {
		errs = append(errs, n.bridge.remove())
	}
	// Only what is on this file system: a mount that somebody forgot below the
	// directory must fail here instead of being emptied.
	errs = append(errs, removeTree(n.dir))
	if n.reaper != nil {
		errs = append(errs, n.reaper.close())
	}
	return errors.Join(errs...)
}

// remove drops the namespace, if it was made.
func (s *Namespace) remove() error {
	if _, err := os.Lstat(s.path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return dropNetns(s.path)
}

// setupContext bounds the making of a lab, which takes well under a second on
// an idle machine.
func setupContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}
