package main

import (
	"context"
	"fmt"
	"io"
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
			pod, err := podName(args[0])
			if err != nil {
				return err
			}
			port, err := client.ParsePort(args[1])
			if err != nil {
				return &usageError{err.Error()}
			}
			cfg, err := relay.config(a)
			if err != nil {
				return err
			}
			a.ignore() // a reader that left is an error of ours to tell the pod
			target := client.Target{Namespace: relay.namespace, Pod: pod, Port: port}
			if err := a.nc(cmd.Context(), client.New(cfg), target); err != nil {
				return &targetError{err, target}
			}
			return nil
		},
		ValidArgsFunction: a.completePods(relay),
	}
}

func (a *app) nc(ctx context.Context, c *client.Client, target client.Target) error {
	defer c.Close()
	if err := c.Connect(ctx); err != nil {
		return err
	}
	answer, cancel := context.WithTimeout(ctx, answerTimeout)
	pod, err := c.Dial(answer, target)
	cancel()
	if err != nil {
		return err
	}
	var j forward.Joiner
	_, err = j.Join(ctx, forward.Pipe(interruptible(a.in), a.out), pod, nil)
	return err
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
