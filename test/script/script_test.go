//go:build linux

package script

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/test/lab"
)

// patience bounds every wait of a script for something that should happen at
// once. It is long because a busy machine with the race detector is slow; what
// must be quick has a bound of its own.
const patience = 60 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestScript runs the scripts, as many side by side as -parallel says.
func TestScript(t *testing.T) {
	lab.RequireRoot(t)
	testscript.Run(t, params())
}

// TestSplit runs those scripts again that are about pods and how they are reached,
// with agents that have no power, each beside a broker.
func TestSplit(t *testing.T) {
	lab.RequireRoot(t)
	p := params()
	p.Dir = ""
	for _, name := range []string{
		"agent-killed", "drain", "echo", "get", "half-close", "ipv6", "pod-reborn", "pod-reset", "pod-unknown",
		"policy-namespaces", "policy-ports", "refused",
	} {
		p.Files = append(p.Files, filepath.Join("testdata", name+".txtar"))
	}
	whole := p.Setup
	p.Setup = func(env *testscript.Env) error {
		err := whole(env)
		if err == nil {
			env.Values[key{}].(*script).split = true
		}
		return err
	}
	testscript.Run(t, p)
}

func params() testscript.Params {
	return testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setUp,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"cluster":    command((*script).startCluster),
			"pod":        command((*script).pod),
			"delete-pod": command((*script).deletePod),
			"on":         on,
			"culvert": func(ts *testscript.TestScript, neg bool, args []string) {
				on(ts, neg, append([]string{"client", "culvert"}, args...))
			},
			"bg":         command((*script).background),
			"forward":    command((*script).forward),
			"agent":      command((*script).agent),
			"line":       command((*script).line),
			"output":     command((*script).output),
			"signal":     command((*script).signal),
			"ended":      command((*script).ended),
			"crash":      command((*script).crash),
			"stop":       command((*script).stop),
			"start":      command((*script).start),
			"metric":     command((*script).metric),
			"remember":   command((*script).remember),
			"described":  command((*script).described),
			"usage":      command((*script).usage),
			"goroutines": command((*script).goroutines),
			"tcp":        command((*script).tcp),
			"crowd":      command((*script).crowd),
			"streak":     command((*script).streak),
			"until":      command((*script).until),
			"dial":       dial,
			"http":       command((*script).http),
			"abandon":    command((*script).abandon),
			"random":     command((*script).random),
			"garbage":    command((*script).garbage),
			"raw":        command((*script).raw),
			"proxy":      command((*script).proxy),
		},
	}
}

// script is what one script has made so far.
type script struct {
	t       lab.TB
	ctx     context.Context //nolint:containedctx // the life of this one script
	split   bool            // agents have brokers
	cluster *lab.Cluster
	procs   map[string]*lab.Process
	conns   map[string]*conn
	ears    map[string]*ear
	noted   map[string]resources
	proxies map[string]*connectProxy
	session *tunnel.Session // of the raw client
}

// key finds the script among the values of testscript.
type key struct{}

func setUp(env *testscript.Env) error {
	t, ok := env.T().(lab.TB)
	if !ok {
		return fmt.Errorf("a script runs in a %T, which is no test", env.T())
	}
	n, err := size(bulk())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &script{
		t: t, ctx: ctx,
		procs: map[string]*lab.Process{}, conns: map[string]*conn{},
		ears: map[string]*ear{}, noted: map[string]resources{}, proxies: map[string]*connectProxy{},
	}
	env.Values[key{}] = s
	env.Setenv("BULK", bulk())
	env.Setenv("BULK_BYTES", fmt.Sprint(n))
	env.Defer(func() {
		cancel()
		s.close()
	})
	return nil
}

// bulk is how much a script sends that is about big transfers: 1 GiB, less with
// the race detector, which makes a transfer about ten times as slow.
func bulk() string {
	switch {
	case os.Getenv("CULVERT_TEST_FULL") == "1":
		return "1GiB"
	case testing.Short():
		return "16MiB"
	case raceDetector:
		return "256MiB"
	}
	return "1GiB"
}

// command makes a command of testscript of a method that cannot be negated: it
// fails the script with the method's error.
func command(run func(*script, *testscript.TestScript, []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("this command cannot be negated")
		}
		ts.Check(run(of(ts), ts, args))
	}
}

func of(ts *testscript.TestScript) *script { return ts.Value(key{}).(*script) }

// errUsage reports a command with wrong arguments; README.md has the right ones.
func errUsage(args []string) error { return fmt.Errorf("bad arguments %q", args) }

// startCluster is: cluster [--split] [NODE...] [relay: FLAG...] [agent: FLAG...].
func (s *script) startCluster(ts *testscript.TestScript, args []string) error {
	cfg := lab.ClusterConfig{Split: s.split}
	if len(args) > 0 && args[0] == "--split" {
		cfg.Split, args = true, args[1:]
	}
	into := &cfg.Nodes
	for _, arg := range args {
		switch arg {
		case "relay:":
			into = &cfg.RelayArgs
		case "agent:":
			into = &cfg.AgentArgs
		default:
			*into = append(*into, arg)
		}
	}
	s.cluster = lab.NewCluster(s.t, cfg)
	relay := s.cluster.Relay
	pin, err := relay.CAPin()
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"CULVERT_RELAY":      relay.Addr(),
		"CULVERT_RELAY_CA":   relay.StateFile("ca.crt"),
		"CULVERT_TOKEN_FILE": relay.StateFile("client-token"),
		"RELAY":              relay.Addr(),
		"RELAY_STATE":        relay.StateDir,
		"PIN":                pin,
	} {
		ts.Setenv(name, value)
	}
	for _, host := range s.cluster.Network.Hosts() {
		ts.Setenv(strings.ToUpper(host.Name())+"_ADDR", host.Addr().String())
	}
	own, err := identity.RelayDir(pin, "")
	if err != nil {
		return err
	}
	for name, agent := range s.cluster.Agents {
		if agent.Broker != nil {
			ts.Setenv(strings.ToUpper(name)+"_BROKER", agent.Broker.Socket)
		}
		ts.Setenv(strings.ToUpper(name)+"_IDENTITY", agent.StateFile(own))
	}
	return nil
}

// close ends what the script itself holds; the cluster ends with the test.
func (s *script) close() {
	if s.session != nil {
		_ = s.session.Close()
	}
	for _, p := range s.proxies {
		p.close()
	}
	for _, e := range s.ears {
		e.close()
	}
	for _, c := range s.conns {
		c.close()
	}
}

// environment is what programs of the script find in theirs. Proxies of the
// machine that the test runs on are none of theirs.
func environment(ts *testscript.TestScript) []string {
	env := []string{"HOME=" + ts.Getenv("WORK")}
	for _, name := range []string{
		"CULVERT_RELAY", "CULVERT_RELAY_CA", "CULVERT_RELAY_CA_PIN", "CULVERT_TOKEN_FILE",
		"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "TRACEPARENT",
	} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

// host returns a host of the cluster by its name.
func (s *script) host(name string) (*lab.Host, error) {
	if s.cluster == nil {
		return nil, fmt.Errorf("there is no host %s before the command cluster", name)
	}
	for _, h := range s.cluster.Network.Hosts() {
		if h.Name() == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("there is no host %s", name)
}

// program returns the path of a program under test, or what it was given.
func (s *script) program(name string) string {
	b := s.cluster.Binaries
	paths := []string{b.Client, b.Relay, b.Agent, b.PodServer}
	if i := slices.IndexFunc(paths, func(p string) bool { return filepath.Base(p) == name }); i >= 0 {
		return paths[i]
	}
	return name
}

// pause waits a moment between two looks at something, or until ctx ends.
func pause(ctx context.Context) error {
	select {
	case <-time.After(10 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
