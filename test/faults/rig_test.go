//go:build linux

package faults

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-k8s/culvert/test/faults/traffic"
	"github.com/culvert-k8s/culvert/test/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen; a busy machine with
// the race detector is slow.
const patience = 90 * time.Second

// podPort is where the pods of a rig listen, on their localhost.
const podPort = 7000

// rig is Culvert on two nodes with two users, each of whom forwards to a pod on
// each node: four flows, named user-node. Between the relay and every agent, and
// between the relay and the user called near, there is a proxy that can do wrong;
// the user called far is there to be left alone.
type rig struct {
	*lab.Cluster
	load  *traffic.Load
	links map[string]*lab.Proxy // by place: near, node1, node2
	pods  map[string]*pod       // by node
	users map[string]*user
	// clean is what each process holds while nothing goes on.
	clean map[string]holdings
	last  map[string]holdings // when it was looked at last
	// members are the programs that are looked at; nil: those of Cluster.
	members func() []program
}

// user is one person with a forward to each pod.
type user struct {
	env      []string
	forwards map[string]*forward // by node
}

// forward is a culvert port-forward. It is started again on the same port after
// it was killed.
type forward struct {
	*lab.Process
	r       *rig
	command lab.Command
	prefix  func(lab.Command) lab.Command // how it is started instead; nil: as it is
	address string
}

// pod is a pod whose program is the test.
type pod struct {
	*lab.BarePod
	ln *net.TCPListener
}

const (
	near = "near"
	far  = "far"
)

func nodes() []string { return []string{"node1", "node2"} }

// rigConfig says what is different from the usual.
type rigConfig struct {
	relay, agent []string // more arguments
	load         traffic.Config
	wrap         func(host string, command lab.Command) lab.Command
	split        bool // agents are two processes
	// noLoad makes connections only when told to.
	noLoad bool
	// prepare is called when all is ready.
	prepare func(*testing.T, *rig)
}

// newRig starts everything and returns when all flows work. It ends with the test.
func newRig(t *testing.T, cfg rigConfig) *rig {
	t.Helper()
	r := &rig{
		links: map[string]*lab.Proxy{}, pods: map[string]*pod{}, users: map[string]*user{}, clean: map[string]holdings{}, last: map[string]holdings{},
	}
	r.Cluster = lab.NewCluster(t, lab.ClusterConfig{
		Proxies: true, Wrap: cfg.wrap, Split: cfg.split,
		RelayArgs: append([]string{"--advertise", "127.0.0.1," + relayName, "--debug-listen", debugListen}, cfg.relay...),
		AgentArgs: append([]string{"--debug-listen", debugListen}, cfg.agent...),
	})
	for _, node := range nodes() {
		r.links[node] = r.Agents[node].Proxy
	}
	var err error
	if r.links[near], err = r.Client.Proxy("127.0.0.1:7443", r.Relay.Addr()); err != nil {
		t.Fatal(err)
	}
	for name, relay := range map[string]string{near: "127.0.0.1:7443", far: r.Relay.Addr()} {
		env := append(slices.Clone(r.ClientEnv()), "CULVERT_RELAY="+relay)
		r.users[name] = &user{env: env, forwards: map[string]*forward{}}
	}
	for _, node := range nodes() {
		r.makePod(t, node)
		for name := range r.users {
			r.forward(t, name, node)
		}
	}
	r.startLoad(t, cfg)
	if cfg.prepare != nil {
		d := r.load.Disturb(r.flows(everybody)...)
		cfg.prepare(t, r)
		d.End()
	}
	return r
}

// forwardOf returns the forward that a flow goes through.
func (r *rig) forwardOf(flow string) *forward {
	user, node, _ := strings.Cut(flow, "-")
	return r.users[user].forwards[node]
}

// makePod makes the pod of a node, whose program is the test itself.
func (r *rig) makePod(t *testing.T, node string) {
	t.Helper()
	old := ""
	if was := r.pods[node]; was != nil {
		old = was.Name()
	}
	bare, err := r.Pod(t.Context(), node, "web-"+node)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := bare.Listen(fmt.Sprintf("127.0.0.1:%d", podPort))
	if err != nil {
		t.Fatal(err)
	}
	r.pods[node] = &pod{BarePod: bare, ln: ln}
	if old == "" {
		if _, err := r.AwaitPod(t.Context(), node, bare.Name(), ""); err != nil {
			t.Fatal(err)
		}
	}
	if r.load != nil {
		r.load.Serve(ln)
	}
}

// forward has a user forward to the pod of a node.
func (r *rig) forward(t *testing.T, name, node string) {
	t.Helper()
	u := r.users[name]
	f := &forward{r: r, command: r.Command("port-forward", "web-"+node, fmt.Sprintf(":%d", podPort))}
	f.command.Env, f.command.Label = u.env, "culvert-"+name+"-"+node
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	u.forwards[node] = f
}

var forwarding = regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:(\d+)) -> `)

// start starts it, and again where it was before.
func (f *forward) start() error {
	command := f.command
	if f.prefix != nil {
		command = f.prefix(command)
	}
	p, err := f.r.Client.StartCommand(context.Background(), command) // lives as long as the network
	if err != nil {
		return err
	}
	f.Process = p
	match, err := p.WaitLine(forwarding, patience)
	if err != nil {
		return err
	}
	if f.address != match[1] { // the first time: later on the load reads it
		f.address = match[1]
	}
	f.command.Args[len(f.command.Args)-1] = fmt.Sprintf("%s:%d", match[2], podPort)
	return nil
}

// startLoad loads all flows until the test ends.
func (r *rig) startLoad(t *testing.T, cfg rigConfig) {
	t.Helper()
	for _, name := range r.flows(everybody) {
		cfg.load.Flows = append(cfg.load.Flows, traffic.Flow{Name: name, Dial: func(ctx context.Context) (*net.TCPConn, error) {
			return r.Client.Dial(ctx, r.forwardOf(name).address)
		}})
	}
	if cfg.noLoad {
		cfg.load.Workers, cfg.load.Idle = -1, -1
	}
	if cfg.load.Limit == 0 {
		cfg.load.Limit = 4 << 20
	}
	r.load = traffic.Start(cfg.load)
	t.Cleanup(r.load.Stop)
	for _, pod := range r.pods {
		r.load.Serve(pod.ln)
	}
	r.awaitService(t, r.flows(everybody))
	r.quiet(t)
	r.noteHoldings(t)
	r.load.Resume()
}

// place chooses flows.
type place func(user, node string) bool

func everybody(_, _ string) bool         { return true }
func onlyNear(user, _ string) bool       { return user == near }
func onlyNode1(_, node string) bool      { return node == "node1" }
func onlyNode2(_, node string) bool      { return node == "node2" }
func nearOrNode1(user, node string) bool { return user == near || node == "node1" }
func nearOnNode1(user, node string) bool { return user == near && node == "node1" }

// flows returns the names of the flows that are chosen.
func (r *rig) flows(at place) []string {
	var names []string
	for _, user := range []string{near, far} {
		for _, node := range nodes() {
			if at(user, node) {
				names = append(names, user+"-"+node)
			}
		}
	}
	return names
}

// awaitService waits until a new connection works on each of the flows, and
// returns how long that took.
func (r *rig) awaitService(t *testing.T, flows []string) time.Duration {
	t.Helper()
	began := time.Now()
	errs := make(chan error, len(flows))
	for _, name := range flows {
		go func() { errs <- r.serves(name, began.Add(patience)) }() // waited for below
	}
	for range flows {
		if err := <-errs; err != nil {
			t.Errorf("service is not back: %v", err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return time.Since(began)
}

// serves probes one flow until it works. Each probe has a few seconds: one that
// hangs must not hide that the next would not.
func (r *rig) serves(name string, until time.Time) error {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := r.load.Probe(ctx, name)
		cancel()
		if err == nil || time.Now().After(until) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// quiet waits until no connection is left.
func (r *rig) quiet(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.load.Quiet(ctx); err != nil {
		t.Fatalf("after all was told to end: %v", err)
	}
}
