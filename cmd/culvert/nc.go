package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/client"
)

// answerTimeout bounds how long nc waits for the pod to accept, which includes
// the agent's dial.
const answerTimeout = 30 * time.Second

const ncExample = `  # Talk to a port by hand
  %[1]s nc pod/mypod 6379

  # Reach a pod's sshd
  ssh -o ProxyCommand='%[1]s nc pod/%%h %%p' mypod`

func (a *app) ncCommand(relay *relayFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "nc [TYPE/]NAME PORT",
		Short: "Join standard input and output to a port of a pod",
		Long: `Join standard input and output to a port of a pod.

The end of one direction leaves the other open. The command ends when both
have ended, with exit code 0 only if both ended properly.`,
		Example: fmt.Sprintf(ncExample, displayName(a.name)),
		Args:    arguments(cobra.ExactArgs(2), "TYPE/NAME and one port are required for nc"),
		RunE: func(cmd *cobra.Command, args []string) error {
			what, err := parseRequest("", args)
			if err != nil {
				return err
			}
			if strings.Contains(args[1], ":") {
				return &usageError{fmt.Sprintf("port %q: nc takes no local port", args[1])}
			}
			dest, cfg, err := a.destination(cmd.Context(), relay, what)
			if err != nil {
				return err
			}
			a.ignore() // a reader that left is an error of ours to tell the pod
			if err := a.nc(cmd.Context(), client.New(cfg), dest); err != nil {
				return &targetError{err, dest.target()}
			}
			return nil
		},
		ValidArgsFunction: a.completeTarget(relay, true),
	}
}

func (a *app) nc(ctx context.Context, c *client.Client, dest destination) error {
	defer c.Close()
	if err := c.Connect(ctx); err != nil {
		return err
	}
	pod, err := a.reach(ctx, c, dest)
	if err != nil {
		return err
	}
	var j forward.Joiner
	_, err = j.Join(ctx, forward.Pipe(interruptible(a.in), a.out), pod, nil)
	return err
}

// reach connects to the first port of a destination that is watched meanwhile.
func (a *app) reach(ctx context.Context, c *client.Client, dest destination) (forward.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { dest.watch(ctx) })
	return c.Dial(ctx, dest.route(0))
}

// interruptible makes a reader whose Read returns when it is closed, which a
// terminal or a file does not promise. The goroutine cannot be waited for: it
// is in a read that nothing can end, and goes with the process.
func interruptible(r io.Reader) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.Copy(pw, r)
		pw.CloseWithError(err) // nil is io.EOF
	}()
	return pr
}
