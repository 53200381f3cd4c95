package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-k8s/culvert/forward/client"
)

// askTimeout bounds a command that asks the relay one question.
const askTimeout = 30 * time.Second

const getExample = `  # Nodes that can be reached
  %[1]s get nodes

  # Pods of all namespaces, for a program
  %[1]s get pods -A -o json

  # What is forwarded now
  %[1]s get streams`

type get struct {
	*app
	relay  *relayFlags
	output string
	all    bool
}

func (a *app) getCommand(relay *relayFlags) *cobra.Command {
	g := &get{app: a, relay: relay}
	cmd := &cobra.Command{
		Use:       "get nodes|pods|streams",
		Short:     "Show the nodes, pods or streams the relay knows",
		Example:   fmt.Sprintf(getExample, displayName(a.name)),
		Args:      arguments(cobra.ExactArgs(1), "one of nodes, pods, streams is required for get"),
		RunE:      g.run,
		ValidArgs: []string{"nodes", "pods", "streams"},
	}
	cmd.Flags().BoolVarP(&g.all, "all-namespaces", "A", false, "show pods of all namespaces")
	outputFlag(cmd, &g.output)
	return cmd
}

// outputFlag adds -o to a command.
func outputFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVarP(to, "output", "o", "", "output format: json, or empty for people")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json"}, cobra.ShellCompDirectiveNoFileComp))
}

func checkOutput(format string) error {
	if format != "" && format != "json" {
		return &usageError{fmt.Sprintf("output format %q is not known, json is", format)}
	}
	return nil
}

func (g *get) run(cmd *cobra.Command, args []string) error {
	var show func(context.Context, *client.Client) error
	switch args[0] {
	case "no", "node", "nodes":
		show = g.nodes
	case "po", "pod", "pods":
	case "stream", "streams":
		show = g.streams
	default:
		return &usageError{fmt.Sprintf("%q cannot be shown; nodes, pods and streams can", args[0])}
	}
	if err := checkOutput(g.output); err != nil {
		return err
	}
	if show == nil {
		return g.pods(cmd.Context())
	}
	return g.connected(cmd.Context(), g.relay, show)
}

// connected runs f with a session and ends the session.
func (a *app) connected(ctx context.Context, relay *relayFlags, f func(context.Context, *client.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	way, err := a.access(ctx, relay)
	if err != nil {
		return err
	}
	return way.connected(ctx, f)
}

// connected runs f with a session and ends the session.
func (w *access) connected(ctx context.Context, f func(context.Context, *client.Client) error) error {
	c := client.New(w.client)
	defer c.Close()
	if err := c.Connect(ctx); err != nil {
		return err
	}
	return f(ctx, c)
}

func (g *get) nodes(ctx context.Context, c *client.Client) error {
	list, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	items := make([]node, 0, len(list))
	for _, n := range list {
		items = append(items, nodeOf(n))
	}
	slices.SortFunc(items, func(a, b node) int { return strings.Compare(a.Name, b.Name) })
	t := table{head: []string{"NAME", "STATUS", "TUNNELS", "STREAMS", "PODS", "VERSION", "AGE"}}
	for _, n := range items {
		status := "Ready"
		if n.GoingAway {
			status = "GoingAway"
		}
		t.row(n.Name, status, n.Tunnels, n.Streams, n.Pods, n.Version, age(n.Connected))
	}
	return show(g, items, t, "No resources found")
}

// pods shows the pods that a target may name: those the relay knows, or in a
// cluster those of the cluster.
func (g *get) pods(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := g.relay.cluster(g.app)
	if err != nil {
		return err
	}
	var items []pod
	namespace := ""
	if c != nil {
		g.voice.advice.Cluster = true
		namespace = g.scope(c.namespace)
		items, err = c.pods(ctx, namespace)
	} else {
		var way *access
		if way, err = g.relay.standalone(g.app); err != nil {
			return err
		}
		namespace = g.scope(way.namespace)
		err = way.connected(ctx, func(ctx context.Context, c *client.Client) error {
			list, err := c.Pods(ctx, namespace)
			for _, p := range list {
				items = append(items, podOf(p))
			}
			return err
		})
	}
	if err != nil {
		return err
	}
	return g.showPods(namespace, items)
}

// scope is the namespace to look into, empty for all.
func (g *get) scope(namespace string) string {
	if g.all {
		return ""
	}
	return namespace
}

func (g *get) showPods(namespace string, items []pod) error {
	if items == nil {
		items = []pod{}
	}
	slices.SortFunc(items, func(a, b pod) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	t := table{head: []string{"NAME", "NODE", "AGE"}}
	none := fmt.Sprintf("No resources found in %s namespace.", namespace)
	if g.all {
		t.head = append([]string{"NAMESPACE"}, t.head...)
		none = "No resources found"
	}
	for _, p := range items {
		cells := []any{p.Name, p.Node, age(p.Created)}
		if g.all {
			cells = append([]any{p.Namespace}, cells...)
		}
		t.row(cells...)
	}
	return show(g, items, t, none)
}

func (g *get) streams(ctx context.Context, c *client.Client) error {
	list, err := c.Streams(ctx)
	if err != nil {
		return err
	}
	items := make([]streamItem, 0, len(list))
	for _, s := range list {
		items = append(items, streamOf(s))
	}
	slices.SortFunc(items, func(a, b streamItem) int {
		return cmp.Or(compareTimes(a.Started, b.Started), strings.Compare(a.ID, b.ID))
	})
	t := table{head: []string{"ID", "USER", "CLIENT", "NODE", "TARGET", "UP", "DOWN", "AGE"}}
	for _, s := range items {
		target := client.Target{Namespace: s.Namespace, Pod: s.Pod, Port: uint16(s.Port)}
		t.row(s.ID, s.User, s.ClientAddr, s.Node, target, size(s.BytesUp), size(s.BytesDown), age(s.Started))
	}
	return show(g, items, t, "No resources found")
}

// show writes items in the format asked for. An empty table is a word on
// standard error.
func show[T any](g *get, items []T, t table, none string) error {
	switch {
	case g.output == "json":
		return writeJSON(g.out, struct {
			Items []T `json:"items"`
		}{items})
	case len(items) == 0:
		g.voice.say("%s", none)
		return nil
	}
	return t.write(g.out)
}

func writeJSON(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "    ")
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
