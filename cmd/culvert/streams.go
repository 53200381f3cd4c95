package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-k8s/culvert/forward/client"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// shownDigits is how much of a stream's id a table shows: enough to stop it.
const shownDigits = 12

const streamsExample = `  # What is forwarded now, through all replicas of the relay
  %[1]s streams

  # Who is connected to pod db-0
  %[1]s streams -n shop --pod db-0

  # End a connection
  %[1]s streams stop 4bf92f3577b3`

const streamsLong = `Show the connections that are forwarded now, and stop them.

Everybody sees and stops his own. In a Kubernetes cluster it takes the right to
list relays/streams in API group culvert.dev to see those of others, and to delete
it to stop them (ClusterRole culvert-overseer). A relay without Kubernetes shows
everybody everything; whoever has its client token stops everything.

All replicas of the relay that can be found are asked. What is said on standard
error tells if one is missing.`

// streamsFilter chooses streams.
type streamsFilter struct {
	*app
	relay     *relayFlags
	output    string
	user, pod string
}

func (f *streamsFilter) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.user, "by", "", "only those of this user")
	cmd.Flags().StringVar(&f.pod, "pod", "", "only those to this pod")
	outputFlag(cmd, &f.output)
}

// request is the question for what was chosen. Without --namespace it is about all
// of them: what runs is not looked for in one place.
func (f *streamsFilter) request() *controlv1.ListStreamsRequest {
	q := &controlv1.ListStreamsRequest{User: f.user, Pod: f.pod}
	if f.relay.set.Changed("namespace") {
		q.Namespace = f.relay.kube.override.Context.Namespace
	}
	return q
}

func (a *app) streamsCommand(relay *relayFlags) *cobra.Command {
	s := &streamsFilter{app: a, relay: relay}
	cmd := &cobra.Command{
		Use:     "streams",
		Short:   "Show what is forwarded now, and stop it",
		Long:    streamsLong,
		Example: fmt.Sprintf(streamsExample, displayName(a.name)),
		Args:    arguments(cobra.NoArgs, "streams takes no argument; to end some: streams stop ID"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return s.list(cmd.Context()) },
	}
	s.register(cmd)
	cmd.AddCommand(&cobra.Command{
		Use:   "stop ID...",
		Short: "End connections, by id or by its first 8 digits or more",
		Long:  streamsLong,
		Args:  arguments(cobra.MinimumNArgs(1), "the id of a stream is required; see: streams"),
		RunE:  func(cmd *cobra.Command, ids []string) error { return s.stop(cmd.Context(), ids) },
	})
	return cmd
}

func (f *streamsFilter) list(ctx context.Context) error {
	if err := checkOutput(f.output); err != nil {
		return err
	}
	return f.connected(ctx, f.relay, func(ctx context.Context, c *client.Client) error {
		o, err := c.Overview(ctx, f.request())
		if err != nil {
			return err
		}
		f.remark(o)
		items := itemsOf(o)
		if f.output == "json" {
			return writeJSON(f.out, page{Relays: relaysOf(o), Missing: o.Missing, Items: items})
		}
		if len(items) == 0 {
			f.voice.say("No resources found")
			return nil
		}
		t := table{head: []string{"ID", "USER", "CLIENT", "NODE", "TARGET", "DOOR", "UP", "DOWN", "AGE"}}
		if len(o.Relays) > 1 {
			t.head = append(t.head, "RELAY")
		}
		for _, s := range items {
			cells := []any{clean(s.ID[:min(len(s.ID), shownDigits)]), clean(s.User), clean(s.ClientAddr), clean(s.Node), clean(s.target()), clean(s.Door), size(s.BytesUp), size(s.BytesDown), age(s.Started)}
			if len(o.Relays) > 1 {
				cells = append(cells, clean(s.Relay))
			}
			t.row(cells...)
		}
		return t.write(f.out)
	})
}

func (f *streamsFilter) stop(ctx context.Context, ids []string) error {
	return f.connected(ctx, f.relay, func(ctx context.Context, c *client.Client) error {
		for _, id := range ids {
			s, err := c.StopStream(ctx, strings.ToLower(id))
			if err != nil {
				return &hintError{err, "see those there are with: " + displayName(f.name) + " streams"}
			}
			item := streamOf(s)
			if _, err := fmt.Fprintf(f.out, "stream %s of %s to %s stopped\n", clean(item.ID), clean(item.User), clean(item.target())); err != nil {
				return err
			}
		}
		return nil
	})
}

// remark says what an overview does not show.
func (f *streamsFilter) remark(o *client.Overview) {
	if o.Missing > 0 {
		f.voice.say("warning: %s", missing(o))
	}
	left, all := 0, true
	for _, r := range o.Relays {
		left += r.LeftOut
		all = all && r.All
	}
	if left > 0 {
		f.voice.say("warning: %d streams more are not shown; choose with --namespace, --pod or --by", left)
	}
	if !all {
		f.voice.say("only your own streams are shown")
	}
}

func missing(o *client.Overview) string {
	return fmt.Sprintf("%d of %d relays could be asked; what goes through the others is not shown", len(o.Relays), len(o.Relays)+o.Missing)
}

// itemsOf returns the streams of all relays, oldest first.
func itemsOf(o *client.Overview) []streamItem {
	items := []streamItem{}
	for _, r := range o.Relays {
		for _, s := range r.Streams {
			item := streamOf(s)
			item.Relay = r.ID
			items = append(items, item)
		}
	}
	slices.SortFunc(items, func(a, b streamItem) int {
		return cmp.Or(compareTimes(a.Started, b.Started), strings.Compare(a.ID, b.ID))
	})
	return items
}

// page is what -o json shows of streams. Names are only added.
type page struct {
	Relays  []relayItem `json:"relays"`
	Missing int         `json:"missing"` // relays that could not be asked
	Items   any         `json:"items"`
}

type relayItem struct {
	ID      string `json:"id"`
	Addr    string `json:"addr"`
	All     bool   `json:"all"`
	LeftOut int    `json:"leftOut"`
}

func relaysOf(o *client.Overview) []relayItem {
	out := []relayItem{}
	for _, r := range o.Relays {
		out = append(out, relayItem{r.ID, r.Addr, r.All, r.LeftOut})
	}
	return out
}

// clean makes a cell of what a relay said.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		return printable(r)
	}, s)
}
