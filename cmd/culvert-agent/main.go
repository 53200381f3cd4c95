// Command culvert-agent is the node end of a forward: it keeps a tunnel to
// every relay and dials the localhost of pods on this node. As "culvert-agent
// broker" it is the part of that which needs power, for an agent that has none.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-k8s/culvert/agent"
	"github.com/culvert-k8s/culvert/agent/broker"
	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/cmd/internal/boot"
	"github.com/culvert-k8s/culvert/cmd/internal/exposition"
	"github.com/culvert-k8s/culvert/cmd/internal/garbage"
	"github.com/culvert-k8s/culvert/forward/tunnel"
)

// version is set by the linker; empty means what the module says.
var version string

func main() {
	garbage.Spare(garbage.Floor)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "version" {
		fmt.Fprintln(stdout, "culvert-agent", boot.Version(version))
		return 0
	}
	work := serve
	if len(args) > 0 && args[0] == "broker" {
		work, args = serveBroker, args[1:]
	}
	err := work(args, stderr)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintln(stderr, "error:", err)
	return 1
}

// checked are flags that know what goes together.
type checked interface {
	register(fl *flag.FlagSet)
	check() error
}

// parse reads args into flags.
func parse(f checked, name string, args []string, stderr io.Writer) error {
	fl := flag.NewFlagSet(name, flag.ContinueOnError)
	fl.SetOutput(stderr)
	f.register(fl)
	if err := fl.Parse(args); err != nil {
		return err
	}
	if fl.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fl.Arg(0))
	}
	return f.check()
}

func serve(args []string, stderr io.Writer) error {
	f := &agentFlags{env: environment{
		nodeName: os.Getenv("NODE_NAME"),
		apiHost:  os.Getenv("KUBERNETES_SERVICE_HOST"), apiPort: os.Getenv("KUBERNETES_SERVICE_PORT"),
	}}
	if err := parse(f, "culvert-agent", args, stderr); err != nil {
		return err
	}
	log, err := boot.Logger(stderr, f.logFormat, f.logLevel)
	if err != nil {
		return err
	}
	pods, err := f.pods(log)
	if err != nil {
		return err
	}
	report := func(err error) { log.Warn("credentials", "err", err) }
	a, err := agent.New(agent.Config{
		Node:         f.node,
		Relays:       f.relays,
		Identity:     f.identity(report),
		Pods:         pods,
		APIServer:    f.reachable(),
		Version:      boot.Version(version),
		Proxy:        proxyFromEnvironment,
		Log:          log,
		DrainTimeout: max(f.drain, 1),                                                      // 0 would mean the default
		Tunnel:       tunnel.Config{Memory: &tunnel.Memory{Limit: boot.MemoryLimit() / 2}}, // it holds little else
	})
	if err != nil {
		return err
	}
	ctx, stop := boot.Context()
	defer stop()
	log.Info("agent starts", "node", f.node, "relays", strings.Join(f.relays, ","), "version", boot.Version(version), "apiserver", f.reachable())
	return serveAll(ctx, a, pods, f, log)
}

// serveAll runs the agent, and what else listens until the agent has ended.
func serveAll(ctx context.Context, a *agent.Agent, pods reach.Pods, f *agentFlags, log *slog.Logger) error {
	g, ctx := errgroup.WithContext(ctx)
	done, finish := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error {
		defer finish()
		return a.Run(ctx)
	})
	page := &exposition.Page{Known: exposition.Agent(), Version: boot.Version(version), Rooms: []func(io.Writer){a.WriteMetrics}}
	h := &boot.Health{Ready: a.Ready, Metrics: page.Write}
	if b, ok := pods.(*broker.Client); ok {
		// The broker listens nowhere that a probe could ask.
		h.Beside = map[string]func() error{"broker": b.Away}
	}
	g.Go(func() error { return h.Serve(done, f.health) })
	d := &boot.Debug{Listening: func(at net.Addr) { log.Info("profiles listen", "addr", at.String()) }}
	g.Go(func() error { return d.Serve(done, f.debug) })
	return g.Wait()
}

// proxyFromEnvironment obeys HTTPS_PROXY and NO_PROXY.
func proxyFromEnvironment(u *url.URL) (*url.URL, error) {
	return http.ProxyFromEnvironment(&http.Request{URL: u})
}
