//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/test/bench/measure"
	"github.com/culvert-k8s/culvert/test/bench/page"
	"github.com/culvert-k8s/culvert/test/lab"
)

// columns are the ways as people call them.
func columns() []page.Way {
	return []page.Way{
		{Name: wayLimit, Title: "limit"},
		{Name: wayStock, Title: "kubectl"},
		{Name: wayStockSPDY, Title: "kubectl SPDY"},
		{Name: wayThrough, Title: "kubectl, Culvert"},
		{Name: wayThroughSPDY, Title: "kubectl SPDY, Culvert"},
		{Name: wayCulvert, Title: "culvert"},
	}
}

// run does what the flags say.
func (o *options) run(ctx context.Context) error {
	if o.list {
		for _, p := range probes() {
			fmt.Printf("%-12s %s\n", p.group, p.name)
		}
		return nil
	}
	results, err := o.results(ctx)
	if err != nil || results == nil || o.check {
		return err
	}
	return o.publish(results)
}

// results measures, or reads what was measured before.
func (o *options) results(ctx context.Context) (*measure.Results, error) {
	if o.from != "" {
		return measure.Load(o.from)
	}
	chosen, err := choose(o.cases)
	if err != nil {
		return nil, err
	}
	r, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	artifacts := r.net.Artifacts()
	results, err := o.measure(ctx, r, chosen)
	if err := errors.Join(err, r.shut()); err != nil {
		return nil, fmt.Errorf("%w (logs are in %s)", err, artifacts)
	}
	return results, os.RemoveAll(artifacts)
}

// open builds and starts everything.
func (o *options) open(ctx context.Context) (*rig, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root: run sudo make bench")
	}
	programs, err := build(ctx)
	if err != nil {
		return nil, err
	}
	root, err := lab.ModuleDir()
	if err != nil {
		return nil, err
	}
	artifacts := filepath.Join(root, "test", "artifacts", "bench")
	if err := errors.Join(os.RemoveAll(artifacts), os.MkdirAll(artifacts, 0o755)); err != nil {
		return nil, err
	}
	start := openCluster
	if o.bare {
		start = openBare
	}
	s, err := start(ctx, programs, artifacts)
	if err != nil {
		return nil, err
	}
	return newRig(ctx, s, programs, s.net.Dir(), o.profile != "")
}

// measure runs all cases. What was measured before a failure is kept.
func (o *options) measure(ctx context.Context, r *rig, chosen []*probe) (*measure.Results, error) {
	ways, err := chooseWays(r.ways(), o.ways)
	if err != nil {
		return nil, err
	}
	if o.hold {
		return nil, hold(ctx, r)
	}
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	results := &measure.Results{Began: time.Now(), Rounds: o.rounds, Quick: o.quick, Commit: commit(ctx), Facts: facts(ctx, r.binaries)}
	var taken *profiles
	if o.profile != "" {
		taken = &profiles{o.profile}
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return nil, err
		}
	}
	if o.add {
		if err := adopt(results, o.out, chosen); err != nil {
			return nil, err
		}
	}
	b := &bench{
		rig: r, ways: ways, rounds: o.rounds, results: results, say: say, memory: make([]byte, gaugeBytes), profiles: taken, patience: machinePatience,
		scale: scale{span: o.span, streams: o.streams, agents: o.agents},
	}
	if o.check {
		b.patience = 0
		return results, errors.Join(b.check(ctx, guarded(chosen)), results.Save(o.out))
	}
	before := results.Took // of the runs that it was added to
	for _, p := range chosen {
		if err := b.run(ctx, p); err != nil {
			return nil, errors.Join(err, results.Save(o.out))
		}
		results.Took = before + time.Since(results.Began).Seconds()
		if err := results.Save(o.out); err != nil {
			return nil, err
		}
	}
	order(results)
	return results, results.Save(o.out)
}

// adopt takes over what an earlier run saw of cases that were not chosen now.
func adopt(results *measure.Results, file string, chosen []*probe) error {
	old, err := measure.Load(file)
	if err != nil {
		return err
	}
	for _, p := range chosen {
		old.Forget(p.name)
	}
	results.Series = old.Series
	results.Rounds = max(results.Rounds, old.Rounds)
	results.Runs = max(old.Runs, 1) + 1
	results.Gauge, results.Restless, results.Took = old.Gauge, old.Restless, old.Took
	return nil
}

// order puts series into the order of the cases.
func order(results *measure.Results) {
	all := probes()
	place := func(s *measure.Series) int {
		return slices.IndexFunc(all, func(p *probe) bool { return p.name == s.Case })
	}
	slices.SortStableFunc(results.Series, func(a, b *measure.Series) int { return place(a) - place(b) })
}

// hold prints what runs where until ctx ends.
func hold(ctx context.Context, r *rig) error {
	for _, w := range r.ways() {
		f, err := r.forward(ctx, w, near)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		defer f.Kill()
		fmt.Printf("%s:", w.name)
		for _, p := range f.parts {
			fmt.Printf("  %s %d", p.name, p.pids)
		}
		fmt.Println("  ports", f.ports)
	}
	fmt.Printf("the ports are on the client host: nsenter --net=%s\n", r.client.NetNS())
	<-ctx.Done()
	return nil
}

// plots are what is drawn.
func plots() map[string]*page.Plot {
	var bulk, requests []string
	for _, streams := range []int{1, 8, 64} {
		bulk = append(bulk, caseBulk(false, streams), caseBulk(true, streams))
	}
	bulk = append(bulk, caseLong(false), caseLong(true), caseLossy(false), caseLossy(true))
	requests = append(requests, caseKeepAlive(1), caseKeepAlive(16), caseFresh(1), caseFresh(8), caseFresh(64), casePing)
	latency := []string{caseKeepAlive(1), casePing, caseFresh(1), caseOpen}
	ends := []string{caseBulk(false, 1), caseBulk(true, 1)}
	return map[string]*page.Plot{
		"speed":    {Title: "Speed: more is better", Metric: "speed", Cases: bulk, Ways: columns()},
		"requests": {Title: "Requests per second: more is better", Metric: "rate", Cases: requests, Ways: columns()},
		"latency":  {Title: "Median time of a request: less is better", Metric: "p50", Cases: latency, Ways: columns()},
		"cpu": {
			Title: "Processor time for each GiB, between client and pod: less is better", Metric: "CPU between client and pod",
			Cases: ends, Ways: columns(),
		},
	}
}

// publish writes page and plots.
func (o *options) publish(r *measure.Results) error {
	p := &page.Page{Results: r, Verdicts: judge(r), Remarks: remarks(r), Ways: columns()}
	if o.doc == "" {
		fmt.Println(p.Markdown())
		return nil
	}
	dir := strings.TrimSuffix(o.doc, filepath.Ext(o.doc))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	drawn := plots()
	for _, name := range []string{"speed", "requests", "latency", "cpu"} {
		svg := drawn[name].SVG(r)
		if svg == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name+".svg"), []byte(svg), 0o644); err != nil {
			return err
		}
		p.Plots = append(p.Plots, filepath.Base(dir)+"/"+name+".svg")
	}
	return page.Write(o.doc, p.Markdown(), strings.TrimSuffix(o.doc, filepath.Ext(o.doc))+"-levers.md")
}
