package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-k8s/culvert/forward/client"
)

// completeTimeout bounds how long a shell waits behind the tab key.
const completeTimeout = 2 * time.Second

// completePods offers the pods of the namespace for the first argument, in the
// form the user began to type. It is silent when the relay cannot be asked.
func (a *app) completePods(relay *relayFlags) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		pods := a.podNames(cmd.Context(), relay, relay.namespace)
		prefix := ""
		if typ, _, typed := strings.Cut(toComplete, "/"); typed {
			prefix = typ + "/"
		}
		var out []string
		for _, p := range pods {
			if s := prefix + p.Name; strings.HasPrefix(s, toComplete) {
				out = append(out, s)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeNamespaces offers the namespaces that have pods.
func (a *app) completeNamespaces(relay *relayFlags) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		seen := make(map[string]bool)
		var out []string
		for _, p := range a.podNames(cmd.Context(), relay, "") {
			if !seen[p.Namespace] && strings.HasPrefix(p.Namespace, toComplete) {
				out = append(out, p.Namespace)
			}
			seen[p.Namespace] = true
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) podNames(ctx context.Context, relay *relayFlags, namespace string) []pod {
	if ctx == nil { // cobra completes flags without one
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	var out []pod
	// An error would end up among the candidates of the shell.
	_ = a.connected(ctx, relay, func(ctx context.Context, c *client.Client) error {
		list, err := c.Pods(ctx, namespace)
		for _, p := range list {
			out = append(out, podOf(p))
		}
		return err
	})
	return out
}
