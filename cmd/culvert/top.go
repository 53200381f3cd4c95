package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/culvert-k8s/culvert/forward/client"
)

const topExample = `  # The busiest connections, until interrupted
  %[1]s top

  # Those into namespace shop that carried most, once, for a program
  %[1]s top -n shop --sort bytes --once -o json`

// The shortest time between two looks.
const shortestLook = time.Second

type top struct {
	streamsFilter
	sort     string
	interval time.Duration
	limit    int
	once     bool
}

// order is what --sort takes. The greatest is first, but for names.
type order struct {
	name    string
	compare func(a, b *rated) int
}

func orders() []order {
	return []order{
		{"rate", func(a, b *rated) int { return cmp.Compare(b.Up+b.Down, a.Up+a.Down) }},
		{"up", func(a, b *rated) int { return cmp.Compare(b.Up, a.Up) }},
		{"down", func(a, b *rated) int { return cmp.Compare(b.Down, a.Down) }},
		{"bytes", func(a, b *rated) int { return cmp.Compare(b.BytesUp+b.BytesDown, a.BytesUp+a.BytesDown) }},
		{"age", func(a, b *rated) int { return compareTimes(a.Started, b.Started) }},
		{"user", func(a, b *rated) int { return strings.Compare(a.User, b.User) }},
		{"pod", func(a, b *rated) int { return strings.Compare(a.target(), b.target()) }},
	}
}

// orderOf returns the comparison that an order makes; nil if there is no such order.
func orderOf(name string) func(a, b *rated) int {
	for _, o := range orders() {
		if o.name == name {
			return o.compare
		}
	}
	return nil
}

func orderNames() (names []string) {
	for _, o := range orders() {
		names = append(names, o.name)
	}
	return names
}

func (a *app) topCommand(relay *relayFlags) *cobra.Command {
	t := &top{streamsFilter: streamsFilter{app: a, relay: relay}}
	cmd := &cobra.Command{
		Use:     "top",
		Short:   "Show the busiest connections, again and again",
		Long:    "Show the connections that are forwarded now with what they carry each second.\n\n" + strings.TrimPrefix(streamsLong, "Show the connections that are forwarded now, and stop them.\n\n"),
		Example: fmt.Sprintf(topExample, displayName(a.name)),
		Args:    arguments(cobra.NoArgs, "top takes no argument"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return t.run(cmd.Context()) },
	}
	t.register(cmd)
	cmd.Flags().StringVar(&t.sort, "sort", orders()[0].name, "what comes first: "+strings.Join(orderNames(), ", "))
	cmd.Flags().DurationVar(&t.interval, "interval", 2*time.Second, "time between two looks, 1s or more")
	cmd.Flags().IntVar(&t.limit, "limit", 50, "the most lines; 0 for all. A terminal shows what fits")
	cmd.Flags().BoolVar(&t.once, "once", false, "look twice, show that, and end")
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(orderNames(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (t *top) check() error {
	if orderOf(t.sort) == nil {
		return &usageError{fmt.Sprintf("--sort %q is none of %s", t.sort, strings.Join(orderNames(), ", "))}
	}
	if t.interval < shortestLook {
		return &usageError{fmt.Sprintf("--interval %v is less than %v", t.interval, shortestLook)}
	}
	if t.limit < 0 {
		return &usageError{"--limit is negative"}
	}
	return checkOutput(t.output)
}

func (t *top) run(ctx context.Context) error {
	if err := t.check(); err != nil {
		return err
	}
	way, err := t.access(ctx, t.relay)
	if err != nil {
		return err
	}
	c := client.New(way.client)
	defer c.Close()
	g, ctx := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(ctx)
	g.Go(func() error { return c.Run(running) })
	g.Go(func() error {
		defer stop()
		return t.watch(ctx, c)
	})
	err = g.Wait()
	if !t.once && errors.Is(err, context.Canceled) {
		return nil // the way to end it
	}
	return err
}

// watch looks until ctx ends, or once.
func (t *top) watch(ctx context.Context, c *client.Client) error {
	s := screenOn(t.out, t.output != "json" && !t.once)
	defer s.leave()
	tick := time.NewTicker(t.interval)
	defer tick.Stop()
	var m meter
	for first := true; ; first = false {
		o, err := t.look(ctx, c)
		switch {
		case err == nil:
			rows := m.rate(time.Now(), itemsOf(o))
			slices.SortStableFunc(rows, orderOf(t.sort))
			if !first || !t.once {
				err = t.show(s, o, rows)
			}
		case !t.once && ctx.Err() == nil && !first:
			err = s.note(reason(err)) // the session comes back, or Run ends it all
		}
		if err != nil || t.once && !first {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *top) look(ctx context.Context, c *client.Client) (*client.Overview, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return c.Overview(ctx, t.request())
}

// rated is a stream and what it carries now.
type rated struct {
	streamItem
	Up   float64 `json:"upPerSecond"`
	Down float64 `json:"downPerSecond"`
}

// meter remembers what streams had carried at the last look. The zero value is
// ready.
type meter struct {
	at   time.Time
	last map[string][2]uint64
}

// rate says what each stream carried each second since the last look; of one that
// is new, since it began.
func (m *meter) rate(now time.Time, items []streamItem) []*rated {
	next := make(map[string][2]uint64, len(items))
	rows := make([]*rated, 0, len(items))
	for _, s := range items {
		r := &rated{streamItem: s}
		before, known := m.last[s.ID]
		since := now.Sub(m.at).Seconds()
		if !known {
			since = 1
			if s.Started != nil {
				since = max(now.Sub(*s.Started).Seconds(), 1)
			}
		}
		if since > 0 && s.BytesUp >= before[0] && s.BytesDown >= before[1] {
			r.Up, r.Down = float64(s.BytesUp-before[0])/since, float64(s.BytesDown-before[1])/since
		}
		next[s.ID] = [2]uint64{s.BytesUp, s.BytesDown}
		rows = append(rows, r)
	}
	m.at, m.last = now, next
	return rows
}

// show writes one look.
func (t *top) show(s *screen, o *client.Overview, rows []*rated) error {
	shown, limit := rows, t.limit
	if room := s.room(); room > 0 && (limit == 0 || limit > room) {
		limit = room
	}
	if limit > 0 && len(shown) > limit {
		shown = shown[:limit]
	}
	if t.output == "json" {
		b, err := json.Marshal(struct {
			Time time.Time `json:"time"`
			page
		}{time.Now().UTC().Truncate(time.Millisecond), page{Relays: relaysOf(o), Missing: o.Missing, Items: shown}})
		if err == nil {
			_, err = t.out.Write(append(b, '\n'))
		}
		return err
	}
	var b strings.Builder
	t.summary(&b, o, rows)
	table := table{head: []string{"ID", "USER", "TARGET", "NODE", "UP/S", "DOWN/S", "UP", "DOWN", "AGE"}}
	for _, r := range shown {
		table.row(clean(r.ID[:min(len(r.ID), shownDigits)]), clean(r.User), clean(r.target()), clean(r.Node),
			size(uint64(r.Up)), size(uint64(r.Down)), size(r.BytesUp), size(r.BytesDown), age(r.Started))
	}
	if err := table.write(&b); err != nil {
		return err
	}
	return s.draw(b.String())
}

// summary is the line above the table.
func (t *top) summary(b *strings.Builder, o *client.Overview, rows []*rated) {
	var up, down float64
	for _, r := range rows {
		up, down = up+r.Up, down+r.Down
	}
	whose := "your own streams"
	if !slices.ContainsFunc(o.Relays, func(r client.RelayStreams) bool { return !r.All }) {
		whose = "streams"
	}
	fmt.Fprintf(b, "%d %s at %d of %d relays, %s/s up, %s/s down\n",
		len(rows), whose, len(o.Relays), len(o.Relays)+o.Missing, size(uint64(up)), size(uint64(down)))
}
