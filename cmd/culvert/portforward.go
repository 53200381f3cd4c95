package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const portForwardLong = `Forward one or more local ports to a pod.

The command runs until it is interrupted. It keeps the local ports while the
relay, the agent or the pod goes away and comes back; a connection that fails
in between is reset and ends alone.

In a cluster TYPE is pod, deployment, statefulset, daemonset, replicaset,
replicationcontroller, job or service, or --selector takes the place of
TYPE/NAME. A pod that is ready is picked, and another one when it goes or is not
ready any more: new connections then go there. REMOTE may be the name of a port;
of a service it is the service's port, and the port shown is that of the pod.`

const portForwardExample = `  # Listen on 5000 and 6000, reach the same ports in the pod
  %[1]s port-forward pod/mypod 5000 6000

  # Listen on 8888, reach 5000 in the pod
  %[1]s port-forward mypod 8888:5000

  # Reach the port named https of a service, in one of its pods
  %[1]s port-forward svc/myservice 8443:https

  # Reach a pod with a label
  %[1]s port-forward -l app=web 8080:80

  # Listen on all addresses
  %[1]s port-forward --address 0.0.0.0 mypod 8888:5000

  # Let the system choose the local port
  %[1]s port-forward mypod :5000`

type portForward struct {
	*app
	relay     *relayFlags
	addresses []string
	patience  time.Duration
	selector  string
}

func (a *app) portForwardCommand(relay *relayFlags) *cobra.Command {
	pf := &portForward{app: a, relay: relay}
	cmd := &cobra.Command{
		Use:     "port-forward [TYPE/]NAME [LOCAL:]REMOTE [...[LOCAL:]REMOTE]",
		Short:   "Forward one or more local ports to a pod",
		Long:    portForwardLong,
		Example: fmt.Sprintf(portForwardExample, displayName(a.name)),
		Args: func(cmd *cobra.Command, args []string) error {
			least := 2
			if pf.selector != "" {
				least = 1
			}
			return arguments(cobra.MinimumNArgs(least), "TYPE/NAME and list of ports are required for port-forward")(cmd, args)
		},
		RunE: pf.run,

		ValidArgsFunction: a.completeTarget(relay, true),
	}
	cmd.Flags().StringSliceVar(&pf.addresses, "address", []string{"localhost"},
		"addresses to listen on: IP addresses or localhost, which is 127.0.0.1 and ::1 and succeeds if either binds")
	cmd.Flags().DurationVar(&pf.patience, "pod-running-timeout", time.Minute,
		"how long to wait for the relay and for the pod to exist and run, such as 5s, 2m or 3h")
	cmd.Flags().StringVarP(&pf.selector, "selector", "l", "", "label selector in place of TYPE/NAME, such as app=web,tier!=db")
	return cmd
}

// request is what a person asked to be reached.
type request struct {
	ref      client.Ref // empty if there is a selector
	selector string
	ports    []client.PortSpec
	texts    []string // the same ports
}

// parseRequest reads TYPE/NAME, unless there is a selector, and ports.
func parseRequest(selector string, args []string) (request, error) {
	r := request{selector: selector}
	if selector == "" {
		ref, err := client.ParseRef(args[0])
		if err != nil {
			return r, &usageError{err.Error()}
		}
		r.ref, args = ref, args[1:]
	}
	for _, s := range args {
		p, err := client.ParsePortSpec(s)
		if err != nil {
			return r, &usageError{err.Error()}
		}
		r.ports = append(r.ports, p)
		r.texts = append(r.texts, s)
	}
	return r, nil
}

func (pf *portForward) run(cmd *cobra.Command, args []string) error {
	what, err := parseRequest(pf.selector, args)
	if err != nil {
		return err
	}
	if err := client.CheckAddresses(pf.addresses); err != nil {
		return &usageError{err.Error()}
	}
	if pf.patience <= 0 {
		return &usageError{"--pod-running-timeout must be higher than zero"}
	}
	dest, cfg, err := pf.destination(cmd.Context(), pf.relay, what)
	if err != nil {
		return err
	}
	pf.ignore() // whoever read the first line may have closed the pipe
	cfg.Notify = (&outage{voice: pf.voice}).notify
	return pf.keep(cmd.Context(), client.New(cfg), dest)
}

// keep runs the session and what watches the pods beside the listeners; either
// may end the others. The end of ctx is what the user wanted.
func (pf *portForward) keep(ctx context.Context, c *client.Client, dest destination) error {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	var lost error
	var beside sync.WaitGroup
	beside.Go(func() {
		defer cancel()
		lost = c.Run(running)
	})
	beside.Go(func() { dest.watch(running) })
	err := pf.serve(running, c, dest)
	cancel()
	beside.Wait()
	switch {
	case ctx.Err() != nil:
		return nil
	case lost != nil:
		return lost
	}
	return err
}

// serve waits for the path to be usable, then listens, then says so.
func (pf *portForward) serve(ctx context.Context, c *client.Client, dest destination) error {
	patience, cancel := context.WithTimeout(ctx, pf.patience)
	defer cancel()
	ports, err := dest.await(patience, c, pf.patience)
	if err != nil {
		return err
	}
	listeners, err := pf.listen(ports)
	if err != nil {
		return err
	}
	pf.forward(ctx, c, dest, listeners)
	return nil
}

// forward serves the listeners, which are in the order of the ports, until ctx
// ends.
func (pf *portForward) forward(ctx context.Context, c *client.Client, dest destination, listeners []*client.Listener) {
	handled, failed := newSpool(), newSpool()
	go handled.run(pf.out)
	go failed.run(pf.voice)
	defer handled.close()
	defer failed.close()
	f := client.Forwarder{
		Opener:   c,
		Route:    func(l *client.Listener) client.Route { return dest.route(slices.Index(listeners, l)) },
		Accepted: func(p client.Ports) { handled.add(fmt.Sprintf("Handling connection for %d\n", p.Local)) },
		Failed:   func(p client.Ports, err error) { failed.add(pf.failure(dest, p, err)) },
		Trouble: func(p client.Ports, err error) {
			failed.add(line("warning: port %d: %v; trying again", p.Local, err))
		},
	}
	f.Serve(ctx, slices.DeleteFunc(slices.Clone(listeners), func(l *client.Listener) bool { return l == nil }))
}

// listen binds every pair of ports it can, as kubectl does: one that cannot be
// bound is an error only if no other can, and nil in the list.
func (pf *portForward) listen(ports []client.Ports) ([]*client.Listener, error) {
	listeners := make([]*client.Listener, len(ports))
	bound := 0
	for i, p := range ports {
		l, err := client.Listen(pf.addresses, p)
		if err != nil {
			pf.voice.say("Unable to listen on port %d: %v", p.Local, err)
			continue
		}
		for _, err := range l.Skipped() {
			pf.voice.say("warning: %v: another program answers there", err)
		}
		listeners[i] = l
		bound++
	}
	if bound == 0 {
		pairs := make([]string, len(ports))
		for i, p := range ports {
			pairs[i] = fmt.Sprintf("{%d %d}", p.Local, p.Remote)
		}
		return nil, &hintError{
			fmt.Errorf("unable to listen on any of the requested ports: [%s]", strings.Join(pairs, " ")),
			fmt.Sprintf("choose another local port, or let the system choose one with :%d", ports[0].Remote),
		}
	}
	for _, l := range listeners {
		if l == nil {
			continue
		}
		for _, addr := range l.Addrs() {
			fmt.Fprintf(pf.out, "Forwarding from %s -> %d\n", addr, l.Ports().Remote)
		}
	}
	return listeners, nil
}

// failure says why one connection ended.
func (pf *portForward) failure(dest destination, p client.Ports, err error) string {
	text := reason(err)
	if remote, ok := asStream(err); ok {
		if h := pf.voice.advice.Hint(remote.Code, dest.target()); h != "" {
			text += " (" + h + ")"
		}
	}
	return line("error: forwarding %d -> %d: %s", p.Local, p.Remote, text)
}

// outage tells a person once that the relay is gone and once that it is back.
// It is called from one goroutine.
type outage struct {
	voice *voice
	told  bool
	odd   bool // told of what waiting may not help against
}

func (o *outage) notify(e client.Event) {
	switch {
	case e.Kind == client.Attached && o.told:
		o.told, o.odd = false, false
		o.voice.say("connected to relay %s", e.Relay)
	case e.Kind != client.Attached && (!o.told || e.Odd && !o.odd):
		o.told, o.odd = true, e.Odd
		o.voice.say("warning: %v; trying again", e.Err)
		if isCode(e.Err, stream.Unauthenticated) {
			o.voice.say("warning: log in again; what runs goes on")
		}
	}
}
