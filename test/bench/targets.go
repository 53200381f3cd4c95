//go:build linux

package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/culvert-k8s/culvert/test/bench/measure"
	"github.com/culvert-k8s/culvert/test/bench/page"
)

// goal is what a number should be, and what it may never be.
type goal struct {
	of    string // the case it is measured in; empty: in many
	what  string
	least bool    // the bound is a least value, else a most
	bound float64 // what it should be; NaN: only the guard looks
	// floor is what a guard against regressions tolerates: far enough from the bound
	// that noise does not reach it. 0: the guard does not look.
	floor float64
	value func(*measure.Results) float64
}

// ratio is the median of a way over that of another.
func ratio(c, metric, way string, bases ...string) func(*measure.Results) float64 {
	return func(r *measure.Results) float64 { return r.Ratio(c, metric, way, bases...) }
}

// median is that of one series.
func median(c, metric, way string) func(*measure.Results) float64 {
	return func(r *measure.Results) float64 { return r.Find(c, metric, way).Median() }
}

// goals are the targets, with those of the guard.
func goals() []goal {
	var all []goal
	guardOnly := math.NaN()
	least := func(of, what string, bound, floor float64, value func(*measure.Results) float64) {
		all = append(all, goal{of, what, true, bound, floor, value})
	}
	most := func(of, what string, bound, floor float64, value func(*measure.Results) float64) {
		all = append(all, goal{of, what, false, bound, floor, value})
	}
	for _, up := range []bool{false, true} {
		one, many := caseBulk(up, 1), caseBulk(up, 64)
		least(one, "culvert over the limit", 1, 0.3, ratio(one, "speed", wayCulvert, wayLimit))
		least(one, "culvert over stock", 1.3, 0, ratio(one, "speed", wayCulvert, wayStock, wayStockSPDY))
		least(many, "culvert over the limit", 1, 0.3, ratio(many, "speed", wayCulvert, wayLimit))
		least(caseLong(up), "culvert over the limit", 0.9, 0, ratio(caseLong(up), "speed", wayCulvert, wayLimit))
		const cpu = "CPU between client and pod"
		most(one, "CPU of relay and agent over the limit's", 1, 2.5, ratio(one, cpu, wayCulvert, wayLimit))
	}
	one, many := caseKeepAlive(1), caseKeepAlive(16)
	most(one, "p50 over the limit", 1.2, 3.5, ratio(one, "p50", wayCulvert, wayLimit))
	most(one, "p50 over stock", 0.6, 0, ratio(one, "p50", wayCulvert, wayStock, wayStockSPDY))
	least(many, "culvert over the limit", 1, 0.4, ratio(many, "rate", wayCulvert, wayLimit))
	least(caseFresh(8), "culvert over the limit", guardOnly, 1, ratio(caseFresh(8), "rate", wayCulvert, wayLimit))
	least(caseFresh(8), "culvert over stock", 8, 0, ratio(caseFresh(8), "rate", wayCulvert, wayStock, wayStockSPDY))
	most(caseOpen, "round trips of the path to the first byte", 1.2, 0, median(caseOpen, "round trips", wayCulvert))
	most(casePackets, "new connection", 6, 16, median(casePackets, "packets, new connection", wayCulvert))
	least("", "stock kubectl through Culvert, any speed or rate, the worst case over stock", 1, 0, worst)
	for _, c := range []string{one, many, caseFresh(1), caseFresh(8), caseFresh(64)} {
		least(c, "kubectl through Culvert over stock", 1.3, 0, ratio(c, "rate", wayThrough, wayStock))
		least(c, "kubectl SPDY through Culvert over stock", 1.3, 0, ratio(c, "rate", wayThroughSPDY, wayStockSPDY))
	}
	most(caseFootprint, "agent binary, MB", 20, 25, median(caseFootprint, "agent binary", wayCulvert))
	most(caseFootprint, "agent idle, MiB", 20, 40, median(caseFootprint, "agent idle", wayCulvert))
	most(caseHeld, "agent with 10,000, by what each takes, MiB", 250, 0, tenThousand)
	most(caseCrowd, "all back after a restart, s", 10, 0, median(caseCrowd, "all back", wayCulvert))
	most(caseTokens, "all back after a restart, s", 10, 0, median(caseTokens, "all back", wayCulvert))
	least(caseStalled, "speed kept, %", 95, 50, median(caseStalled, "speed kept", wayCulvert))
	return all
}

// worst is the least ratio of a kubectl through Culvert over the same one on the
// stock path, in all speeds and rates.
func worst(r *measure.Results) float64 {
	least := math.NaN()
	for _, one := range behind(r, math.Inf(1)) {
		if math.IsNaN(least) || one.ratio < least {
			least = one.ratio
		}
	}
	return least
}

// lag is a case in which kubectl is slower through Culvert.
type lag struct {
	of, way string
	ratio   float64
	apart   bool // the spreads of the rounds do not overlap
}

// behind are the cases in which a kubectl through Culvert has less than a part of
// the speed or rate that the same one has on the stock path.
func behind(r *measure.Results, part float64) []lag {
	var all []lag
	for _, s := range r.Series {
		base, ok := map[string]string{wayThrough: wayStock, wayThroughSPDY: wayStockSPDY}[s.Way]
		if !ok || !slices.Contains([]string{"speed", "rate"}, s.Metric) {
			continue
		}
		ratio := r.Ratio(s.Case, s.Metric, s.Way, base)
		if !(ratio < part) {
			continue
		}
		_, ours := s.Range()
		theirs, _ := r.Find(s.Case, s.Metric, base).Range()
		all = append(all, lag{s.Case, s.Way, ratio, ours < theirs})
	}
	return all
}

// tenThousand is the memory of an agent with 10,000 streams. One tunnel carries 2,000
// at most, so what is beyond those that were held is what each of them takes.
func tenThousand(r *measure.Results) float64 {
	held := r.Find(caseHeld, "streams", wayCulvert).Median()
	if !(held >= 1000) {
		return math.NaN()
	}
	each := r.Find(caseHeld, "agent, each stream", wayCulvert).Median() / 1024
	return r.Find(caseHeld, "agent with them", wayCulvert).Median() + max(10_000-held, 0)*each
}

// String is the whole of what is measured.
func (g *goal) String() string {
	if g.of == "" {
		return g.what
	}
	return g.of + ": " + g.what
}

// judge holds results against the targets.
func judge(r *measure.Results) []page.Verdict {
	var all []page.Verdict
	for _, g := range goals() {
		if math.IsNaN(g.bound) {
			continue
		}
		value := g.value(r)
		met := value <= g.bound
		if g.least {
			met = value >= g.bound
		}
		all = append(all, page.Verdict{What: g.String(), Least: g.least, Bound: g.bound, Value: value, Met: met})
	}
	return all
}

// remarks are what the targets do not say.
func remarks(r *measure.Results) []string {
	var all []string
	for _, one := range behind(r, 1) {
		text := fmt.Sprintf("%s, %s: %s of stock", one.of, one.way, page.Number(one.ratio))
		if !one.apart {
			text += ", with spreads that overlap"
		}
		all = append(all, text)
	}
	if len(all) == 0 {
		return nil
	}
	return []string{"Where stock kubectl is slower through Culvert: " + strings.Join(all, "; ") + "."}
}

// guarded are those of the cases that the guard looks at.
func guarded(chosen []*probe) []*probe {
	return slices.DeleteFunc(chosen, func(p *probe) bool {
		return !slices.ContainsFunc(goals(), func(g goal) bool { return g.floor != 0 && g.of == p.name })
	})
}

// guard returns what is worse than even a busy machine makes it, by the cases that
// were chosen: of those nothing may be missing.
func guard(r *measure.Results, chosen []*probe) (bad []*probe, why error) {
	var errs []error
	for _, p := range chosen {
		var mine []error
		for _, g := range goals() {
			if g.floor == 0 || g.of != p.name {
				continue
			}
			value := g.value(r)
			if ok := g.least && value >= g.floor || !g.least && value <= g.floor; !ok { // nor is NaN
				mine = append(mine, fmt.Errorf("%s: %.3g, the guard wants %.3g", g.String(), value, g.floor))
			}
		}
		for _, w := range []string{wayCulvert, wayLimit} {
			if s := r.Find(p.name, failureMetric, w); s != nil && s.Failures > 0 {
				mine = append(mine, fmt.Errorf("%s, %s: %s", p.name, w, s.Failure))
			}
		}
		if len(mine) > 0 {
			bad, errs = append(bad, p), append(errs, mine...)
		}
	}
	return bad, errors.Join(errs...)
}
