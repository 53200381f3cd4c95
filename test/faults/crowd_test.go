//go:build linux

package faults

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/faults/traffic"
	"github.com/culvert-k8s/culvert/test/lab"
)

// TestCrowd has ten thousand connections at once through one relay, and looks at
// what they cost and that nothing is left of them.
func TestCrowd(t *testing.T) {
	if os.Getenv("CULVERT_TEST_FAULTS") != "required" {
		t.Skip("takes a minute of everything: make faults runs it")
	}
	lab.RequireRoot(t)
	// A tunnel takes 2,000 streams, so these are six clients and six nodes.
	const crowd, clients = 10_000, 6
	report := newReport(t)
	r := &rig{clean: map[string]holdings{}, last: map[string]holdings{}}
	var names []string
	for i := range clients {
		names = append(names, fmt.Sprintf("node%d", i+1))
	}
	debug := []string{"--debug-listen", debugListen}
	r.Cluster = lab.NewCluster(t, lab.ClusterConfig{Nodes: names, RelayArgs: debug, AgentArgs: debug})
	members := []program{{"relay", r.Relay.Process, r.Relay.Host, r.Relay.Get}}
	var addresses []string
	for i, node := range names {
		_, err := r.PodServer(t.Context(), node, "web-"+node, "-echo", "7000")
		must(t, err)
		f := &forward{r: r, command: r.Command("port-forward", "web-"+node, ":7000")}
		must(t, f.start())
		addresses = append(addresses, f.address)
		if i == 0 {
			members = append(members, program{"one of the agents", r.Agents[node].Process, r.Agents[node].Host, r.Agents[node].Get},
				program{"one of the clients", f.Process, r.Client, nil})
		}
	}
	must(t, gather(t.Context(), r.Client, addresses, 10*clients, func() {})) // a first time, as nothing is new afterwards
	time.Sleep(time.Second)
	for _, p := range members {
		r.clean[p.name], _ = p.look(t.Context())
	}
	with := map[string]holdings{}
	began := time.Now()
	var took time.Duration
	err := gather(t.Context(), r.Client, addresses, crowd, func() {
		took = time.Since(began)
		for _, p := range members {
			with[p.name], _ = p.look(t.Context())
		}
	})
	if err != nil {
		t.Error(err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "Through one relay, %d clients and as many agents, all open at the same time and each having got its answer: %s after the first "+
		"was begun.\n\n| | without | with | afterwards |\n|---|---|---|---|\n", clients, short(took))
	for _, p := range members {
		bound := r.clean[p.name]
		bound.rss, bound.threads = with[p.name].rss, with[p.name].threads // the runtime gives memory back over minutes, threads never
		r.clean[p.name], bound = bound, r.clean[p.name]
		r.back(t, p)
		r.clean[p.name] = bound
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", p.name, r.clean[p.name], with[p.name], r.last[p.name])
	}
	report.of(titleCrowd).text = text.String()
	report.figures = &figures{name: figuresCrowd, totals: traffic.Totals{Begun: crowd, Bytes: crowdBytes(crowd)}}
	t.Log("\n" + text.String())
}

// gather opens n connections to echoes, calls together when all have their answer,
// and ends them.
func gather(ctx context.Context, from *lab.Host, to []string, n int, together func()) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	dialling := make(chan struct{}, 128)
	var here, all sync.WaitGroup
	here.Add(n)
	met := make(chan struct{})
	errs := make(chan error, n)
	for i := range n {
		all.Go(func() {
			arrive := sync.OnceFunc(here.Done)
			defer arrive()
			errs <- member(ctx, from, to[i%len(to)], i, dialling, func() { arrive(); <-met })
		})
	}
	here.Wait()
	together()
	close(met)
	all.Wait()
	close(errs)
	var first error
	failed := 0
	for err := range errs {
		if err != nil {
			first = err
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d connections failed, one of them with: %w", failed, n, first)
	}
	return nil
}

// crowdText is what a connection of a crowd says, and hears.
func crowdText(i int) string { return fmt.Sprintf("connection %d, and nobody else", i) }

// crowdBytes is what n of them receive, both ends together.
func crowdBytes(n int) int64 {
	all := 0
	for i := range n {
		all += 2 * len(crowdText(i))
	}
	return int64(all)
}

// member is one connection of a crowd.
func member(ctx context.Context, from *lab.Host, to string, i int, dialling chan struct{}, meet func()) error {
	dialling <- struct{}{}
	conn, err := from.Dial(ctx, to)
	<-dialling
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	text := crowdText(i)
	got := make([]byte, len(text))
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	meet()
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	rest, err := io.ReadAll(conn)
	if err == nil && string(got)+string(rest) != text {
		err = fmt.Errorf("connection %d got %q", i, string(got)+string(rest))
	}
	return err
}
