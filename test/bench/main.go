//go:build linux

// Bench measures Culvert against the limit of its path and against the stock one,
// side by side in one run, the ways in turn within each round:
//
//	limit                   TLS 1.3 and io.Copy over the same hosts, test/bench/limit
//	kubectl, kubectl-spdy   kubectl 1.36 (WebSocket) and 1.29 (SPDY), by API server, kubelet and containerd
//	...-culvert             the same through Culvert's relay and agent
//	culvert                 culvert through them
//
// Results go to a JSON file, and as tables and plots to docs/performance.md, behind
// which docs/performance-levers.md is copied. It needs root and Linux; for the ways with kubectl what "make
// runtime" and "make cluster-binaries" build, without -bare.
//
// Relay and agents are processes on hosts of their own, as the bare path's are,
// so that processor time and memory can be told apart; in a cluster they would be
// pods. -profile takes profiles of them; what else is wanted, perf or strace -c, finds
// the process numbers with -hold.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// options are the flags.
type options struct {
	cases, ways     string
	rounds          int
	span            time.Duration
	streams, agents int
	quick, bare     bool
	check, hold     bool
	list, add       bool
	out, doc, from  string
	profile         string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	if err == nil {
		err = o.run(ctx)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1) //nolint:gocritic // everything was cleaned up by then
	}
}

func parse(args []string) (*options, error) {
	root, err := lab.ModuleDir()
	if err != nil {
		return nil, err
	}
	o := &options{}
	fl := flag.NewFlagSet("bench", flag.ContinueOnError)
	fl.StringVar(&o.cases, "cases", "", "`groups` of cases, with commas; default all: "+strings.Join(groups(), ","))
	fl.StringVar(&o.ways, "ways", "", "`names` of ways, with commas; default all")
	fl.IntVar(&o.rounds, "rounds", 5, "how often each way is measured in each case")
	fl.DurationVar(&o.span, "span", 600*time.Millisecond, "how long one measurement takes")
	fl.IntVar(&o.streams, "streams", 10_000, "idle streams through culvert; others get a tenth")
	fl.IntVar(&o.agents, "agents", 1000, "agents on one relay")
	fl.BoolVar(&o.quick, "quick", false, "one round of everything, short and small, which writes no page: for trying the benchmark")
	fl.BoolVar(&o.bare, "bare", false, "without Kubernetes: only limit and culvert")
	fl.BoolVar(&o.check, "check", false, "fail if culvert falls far behind the limit, or a case fails: a guard against regressions")
	fl.BoolVar(&o.hold, "hold", false, "start everything, print what runs where, and wait for an interrupt: for profiles")
	fl.BoolVar(&o.add, "add", false, "keep what the file with the results has of other cases")
	fl.BoolVar(&o.list, "list", false, "list the cases")
	fl.StringVar(&o.out, "out", filepath.Join(root, "test", "bench", "results", "results.json"), "`file` for the results")
	fl.StringVar(&o.doc, "doc", filepath.Join(root, "docs", "performance.md"), "`file` for people; empty for none")
	fl.StringVar(&o.from, "from", "", "`file` with results to write the page from, without a run")
	fl.StringVar(&o.profile, "profile", "", "`directory` for processor profiles of relay and agent in each case; give -span 3s or so, and one round")
	if err := fl.Parse(args); err != nil {
		return nil, err
	}
	set := map[string]bool{}
	fl.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if o.quick {
		o.shrink(root, set)
	}
	if o.rounds < 1 || o.span <= 0 || o.streams < 1 || o.agents < 1 || fl.NArg() > 0 {
		return nil, errors.New("want -rounds, -span, -streams and -agents above zero, and no arguments")
	}
	return o, nil
}

// shrink makes small what was not asked for.
func (o *options) shrink(root string, set map[string]bool) {
	if !set["rounds"] {
		o.rounds = 1
	}
	if !set["span"] {
		o.span = 300 * time.Millisecond
	}
	if !set["streams"] {
		o.streams = 500
	}
	if !set["agents"] {
		o.agents = 50
	}
	if !set["doc"] {
		o.doc = ""
	}
	if !set["out"] {
		o.out = filepath.Join(root, ".cache", "bench", "quick.json")
	}
}
