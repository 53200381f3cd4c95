//go:build linux

package replicas

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

const (
	// patience is how long anything may take before it counts as hanging: this may
	// run beside other tests on a slow machine.
	patience = 2 * time.Minute
	// relaysName is what all relays are called.
	relaysName = "relays.test"
	// nowhere is a port of the relays at which nobody listens: what they tell agents
	// about each other's addresses is then of no use, as where only a balancer leads
	// from one network to the other.
	nowhere = "9"
)

// site is some hosts for relays, two nodes, a client, and a host with a balancer
// and DNS.
type site struct {
	t   *testing.T
	net *lab.Network
	bin *lab.Binaries
	pki *pki
	lb  *balancer
	dns *names

	relays map[string]*lab.Process
	args   []string // of every relay

	agentsUp []*lab.Process
}

func newSite(t *testing.T, how pick, relayArgs ...string) *site {
	t.Helper()
	lab.RequireRoot(t)
	t.Parallel() // they wait most of the time
	artifacts := lab.Artifacts(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // a first build is slow
	defer cancel()
	bin, err := lab.Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	n, err := lab.New(ctx, lab.Config{Hosts: []string{"lb", "client", "node1", "node2", "r1", "r2", "r3", "r4"}, Artifacts: artifacts})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(n.Close(), lab.Complaints(artifacts)); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t, net: n, bin: bin, pki: newPKI(t, n.Dir()), relays: make(map[string]*lab.Process), args: relayArgs}
	var addrs []netip.Addr
	for _, h := range n.Hosts() {
		addrs = append(addrs, h.Addr())
	}
	s.pki.server([]string{relaysName}, addrs)
	s.pki.person("node1", "culvert:nodes")
	s.pki.person("node2", "culvert:nodes")
	s.pki.person("alice", "devs")
	s.lb = balance(t, n.Host("lb"), how)
	s.dns = serveDNS(t, n.Host("lb"), relaysName)
	resolv := "nameserver " + n.Host("lb").Addr().String() + "\noptions timeout:1 attempts:2\n"
	if err := os.WriteFile(filepath.Join(n.Dir(), "resolv.conf"), []byte(resolv), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// addr is where a host listens for agents and clients.
func (s *site) addr(host string) string { return s.net.Host(host).Addr().String() + ":7443" }

// start starts a program on a host, with the site's DNS.
func (s *site) start(host, label, program string, args ...string) *lab.Process {
	s.t.Helper()
	const enter = `mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"`
	p, err := s.net.Host(host).StartCommand(context.Background(), lab.Command{
		Path: "unshare", Args: append([]string{"--mount", "sh", "-c", enter, s.net.Dir(), program}, args...),
		Env: []string{"GORACE=atexit_sleep_ms=0", "HOME=" + s.net.Dir(), "KUBECONFIG="}, Label: label,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// relay starts one and waits until it is ready.
func (s *site) relay(host string, args ...string) {
	s.t.Helper()
	s.relays[host] = s.start(host, host, s.bin.Relay, slices.Concat([]string{
		"serve", "--tls-cert", s.pki.file("relay.pem"), "--tls-key", s.pki.file("relay.key"),
		"--agent-ca", s.pki.file("ca.pem"), "--client-ca", s.pki.file("ca.pem"),
	}, s.args, args)...)
	s.until(host+" is ready", func() error { return s.ready(host, "7480") })
}

func (s *site) ready(host, port string) error {
	status, body, err := s.net.Host(host).HTTPGet(s.t.Context(), "http://127.0.0.1:"+port+"/readyz")
	if err == nil && status != 200 {
		err = fmt.Errorf("%s is not ready: %d %s", host, status, body)
	}
	return err
}

// serve puts relays into the balancer and under the name, and takes others out.
func (s *site) serve(hosts ...string) {
	var addrs []string
	var ips []netip.Addr
	for _, h := range hosts {
		addrs, ips = append(addrs, s.addr(h)), append(ips, s.net.Host(h).Addr())
	}
	s.lb.set(addrs...)
	s.dns.set(ips...)
}

// agents makes a pod on each node, echo-NODE, and starts an agent there.
func (s *site) agents(args ...string) {
	s.t.Helper()
	for _, node := range []string{"node1", "node2"} {
		h := s.net.Host(node)
		// Before the agent, which has mounts of its own and sees no new ones.
		pod, err := h.Pod(s.t.Context(), "echo-"+node)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := pod.Serve(s.bin.PodServer, "-echo", "7000"); err != nil {
			s.t.Fatal(err)
		}
		p := s.start(node, node, s.bin.Agent, append([]string{
			"--relay-ca", s.pki.file("ca.pem"), "--tls-cert", s.pki.file(node + ".pem"), "--tls-key", s.pki.file(node + ".key"),
			"--node", node, "--source", "named", "--netns-dir", h.NetnsDir(),
		}, args...)...)
		s.agentsUp = append(s.agentsUp, p)
	}
	for _, node := range []string{"node1", "node2"} {
		s.until(node+" is ready", func() error { return s.ready(node, "7481") })
	}
}

// metric returns a metric of a program.
func (s *site) metric(host, port, name string) (float64, error) {
	_, text, err := s.net.Host(host).HTTPGet(s.t.Context(), "http://127.0.0.1:"+port+"/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if got, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			return strconv.ParseFloat(got, 64)
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", host, name)
}

// tunnels waits until both agents have so many, and miss so many relays.
func (s *site) tunnels(have, miss float64) {
	s.t.Helper()
	began := time.Now()
	for _, node := range []string{"node1", "node2"} {
		s.until(fmt.Sprintf("%s has %v tunnels and misses %v relays", node, have, miss), func() error {
			got, err := s.metric(node, "7481", "culvert_agent_tunnels")
			if err != nil {
				return err
			}
			missing, err := s.metric(node, "7481", "culvert_agent_relays_missing")
			if err == nil && (got != have || missing != miss) {
				err = fmt.Errorf("%v tunnels, %v missing", got, missing)
			}
			return err
		})
	}
	s.t.Logf("%v tunnels for each agent after %v", have, time.Since(began).Round(100*time.Millisecond))
}

// said waits for a line of a program.
func (s *site) said(p *lab.Process, text string) string {
	s.t.Helper()
	m, err := p.WaitLine(regexp.MustCompile(".*"+regexp.QuoteMeta(text)+".*"), patience)
	if err != nil {
		s.t.Fatal(err)
	}
	return m[0]
}

// end asks a relay to go away and waits until it has gone.
func (s *site) end(host string) *lab.Process {
	s.t.Helper()
	s.ask(host)
	return s.gone(host)
}

// ask asks a relay to go away.
func (s *site) ask(host string) {
	s.t.Helper()
	if err := s.relays[host].Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
}

// gone waits until a relay has gone.
func (s *site) gone(host string) *lab.Process {
	s.t.Helper()
	p := s.relays[host]
	select {
	case <-p.Done():
	case <-time.After(patience):
		s.t.Fatalf("relay %s does not end", host)
	}
	if code := p.ExitCode(); code != 0 {
		s.t.Errorf("relay %s ended with %d", host, code)
	}
	return p
}

// until waits for something to be so.
func (s *site) until(what string, is func() error) {
	s.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := is()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("never came: %s: %v", what, err)
		}
	}
}
