package main

import (
	"context"
	"errors"
	"fmt"
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
in between is reset and ends alone.`

const portForwardExample = `  # Listen on 5000 and 6000, reach the same ports in the pod
  %[1]s port-forward pod/mypod 5000 6000

  # Listen on 8888, reach 5000 in the pod
  %[1]s port-forward mypod 8888:5000

  # Listen on all addresses
  %[1]s port-forward --address 0.0.0.0 mypod 8888:5000

  # Let the system choose the local port
  %[1]s port-forward mypod :5000`

type portForward struct {
	*app
	relay     *relayFlags
	addresses []string
	patience  time.Duration
}

func (a *app) portForwardCommand(relay *relayFlags) *cobra.Command {
	pf := &portForward{app: a, relay: relay}
	cmd := &cobra.Command{
		Use:     "port-forward [TYPE/]NAME [LOCAL:]REMOTE [...[LOCAL:]REMOTE]",
		Short:   "Forward one or more local ports to a pod",
		Long:    portForwardLong,
		Example: fmt.Sprintf(portForwardExample, displayName(a.name)),
		Args:    arguments(cobra.MinimumNArgs(2), "TYPE/NAME and list of ports are required for port-forward"),
		RunE:    pf.run,

		ValidArgsFunction: a.completePods(relay),
	}
	cmd.Flags().StringSliceVar(&pf.addresses, "address", []string{"localhost"},
		"addresses to listen on: IP addresses or localhost, which is 127.0.0.1 and ::1 and succeeds if either binds")
	cmd.Flags().DurationVar(&pf.patience, "pod-running-timeout", time.Minute,
		"how long to wait for the relay and for the pod to exist, such as 5s, 2m or 3h")
	return cmd
}

func (pf *portForward) run(cmd *cobra.Command, args []string) error {
	pod, err := podName(args[0])
	if err != nil {
		return err
	}
	var ports []client.Ports
	for _, s := range args[1:] {
		p, err := client.ParsePorts(s)
		if err != nil {
			return &usageError{err.Error()}
		}
		ports = append(ports, p)
	}
	if err := client.CheckAddresses(pf.addresses); err != nil {
		return &usageError{err.Error()}
	}
	if pf.patience <= 0 {
		return &usageError{"--pod-running-timeout must be higher than zero"}
	}
	cfg, err := pf.relay.config(pf.app)
	if err != nil {
		return err
	}
	pf.ignore() // whoever read the first line may have closed the pipe
	cfg.Notify = (&outage{voice: pf.voice}).notify
	return pf.keep(cmd.Context(), client.New(cfg), pod, ports)
}

// keep runs the session beside the listeners; either may end the other. The
// end of ctx is what the user wanted.
func (pf *portForward) keep(ctx context.Context, c *client.Client, pod string, ports []client.Ports) error {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	var lost error
	var session sync.WaitGroup
	session.Go(func() {
		defer cancel()
		lost = c.Run(running)
	})
	err := pf.serve(running, c, pod, ports)
	cancel()
	session.Wait()
	switch {
	case ctx.Err() != nil:
		return nil
	case lost != nil:
		return lost
	}
	return err
}

// serve waits for the path to be usable, then listens, then says so.
func (pf *portForward) serve(ctx context.Context, c *client.Client, pod string, ports []client.Ports) error {
	namespace := pf.relay.namespace
	patience, cancel := context.WithTimeout(ctx, pf.patience)
	defer cancel()
	_, err := c.AwaitPod(patience, namespace, pod, func() {
		pf.voice.say("waiting up to %v for pod %q in namespace %q", pf.patience, pod, namespace)
	})
	if err != nil {
		if patience.Err() != nil {
			err = fmt.Errorf("waited %v: %w", pf.patience, err)
		}
		return &targetError{err, client.Target{Namespace: namespace, Pod: pod}}
	}
	listeners, err := pf.listen(ports)
	if err != nil {
		return err
	}
	pf.forward(ctx, c, pod, listeners)
	return nil
}

// forward serves the listeners until ctx ends.
func (pf *portForward) forward(ctx context.Context, c *client.Client, pod string, listeners []*client.Listener) {
	handled, failed := newSpool(), newSpool()
	go handled.run(pf.out)
	go failed.run(pf.voice)
	defer handled.close()
	defer failed.close()
	f := client.Forwarder{
		Opener:    c,
		Namespace: pf.relay.namespace,
		Pod:       pod,
		Accepted:  func(p client.Ports) { handled.add(fmt.Sprintf("Handling connection for %d\n", p.Local)) },
		Failed:    func(p client.Ports, err error) { failed.add(pf.failure(p, err)) },
		Trouble: func(p client.Ports, err error) {
			failed.add(line("warning: port %d: %v; trying again", p.Local, err))
		},
	}
	f.Serve(ctx, listeners)
}

// listen binds every pair of ports it can, as kubectl does: one that cannot be
// bound is an error only if no other can.
func (pf *portForward) listen(ports []client.Ports) ([]*client.Listener, error) {
	var listeners []*client.Listener
	for _, p := range ports {
		l, err := client.Listen(pf.addresses, p)
		if err != nil {
			pf.voice.say("Unable to listen on port %d: %v", p.Local, err)
			continue
		}
		for _, err := range l.Skipped() {
			pf.voice.say("warning: %v: another program answers there", err)
		}
		listeners = append(listeners, l)
	}
	if len(listeners) == 0 {
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
		for _, addr := range l.Addrs() {
			fmt.Fprintf(pf.out, "Forwarding from %s -> %d\n", addr, l.Ports().Remote)
		}
	}
	return listeners, nil
}

// failure says why one connection ended.
func (pf *portForward) failure(p client.Ports, err error) string {
	text := reason(err)
	if remote, ok := errors.AsType[*stream.Error](err); ok {
		if h := (client.Advice{}).Hint(remote.Code, client.Target{Namespace: pf.relay.namespace, Port: p.Remote}); h != "" {
			text += " (" + h + ")"
		}
	}
	return line("error: forwarding %d -> %d: %s", p.Local, p.Remote, text)
}

// podName reads [TYPE/]NAME, which must stand for a pod.
func podName(arg string) (string, error) {
	ref, err := client.ParseRef(arg)
	if err != nil {
		return "", &usageError{err.Error()}
	}
	return ref.PodName()
}

// outage tells a person once that the relay is gone and once that it is back.
// It is called from one goroutine.
type outage struct {
	voice *voice
	told  bool
}

func (o *outage) notify(e client.Event) {
	switch {
	case e.Kind == client.Attached && o.told:
		o.told = false
		o.voice.say("connected to relay %s", e.Relay)
	case e.Kind != client.Attached && !o.told:
		o.told = true
		o.voice.say("warning: %v; trying again", e.Err)
	}
}
