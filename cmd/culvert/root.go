package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/culvert-k8s/culvert/proto/stream"
)

const rootLong = `Forward local ports to pods through a Culvert relay.

In a Kubernetes cluster culvert reads the kubeconfig as kubectl does and needs
nothing else. The relay is that of --relay or CULVERT_RELAY; else the server of
the kubeconfig's context, if '%[1]s kubeconfig' made it; else the one that the
ConfigMap culvert-system/culvert-relay-ca names. The credential that the relay
is shown is the one of the kubeconfig.

A relay without Kubernetes takes the place of the cluster when there is
  - --token-file, or
  - --client-certificate or CULVERT_TOKEN_FILE, and no flag that names a cluster
    or a user in it (such as --context or --token), or
  - no kubeconfig.
Then the relay and the credential come from flags or from the environment:

  CULVERT_RELAY         --relay
  CULVERT_RELAY_CA      --relay-ca
  CULVERT_RELAY_CA_PIN  --relay-ca-pin
  CULVERT_TOKEN_FILE    --token-file

HTTPS_PROXY and NO_PROXY are honoured on the way to the relay. Connections are
part of the trace in TRACEPARENT (W3C Trace Context), if there is one: its id is
in the logs of relay and agent.`

func (a *app) rootCommand() *cobra.Command {
	name := displayName(a.name)
	a.voice.advice.Program = name
	relay := new(relayFlags)
	root := &cobra.Command{
		Use:           "culvert",
		Short:         "Forward local ports to pods through a relay",
		Long:          fmt.Sprintf(rootLong, name),
		Args:          cobra.NoArgs,
		SilenceErrors: true, // fail prints them
		SilenceUsage:  true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: name},
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		PersistentPreRun: func(cmd *cobra.Command, _ []string) { a.quiet(cmd) },
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.voice)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err.Error()} })
	relay.register(root)
	a.completeFlags(root, relay)
	root.AddCommand(
		a.portForwardCommand(relay),
		a.ncCommand(relay),
		a.getCommand(relay),
		a.streamsCommand(relay),
		a.topCommand(relay),
		a.doctorCommand(relay),
		a.kubeconfigCommand(relay),
		a.policyCommand(),
		a.versionCommand(relay),
	)
	root.InitDefaultCompletionCmd()
	a.completionForKubectl(root)
	return root
}

// access is the way to a relay that flags, environment and kubeconfig lead to.
func (a *app) access(ctx context.Context, relay *relayFlags) (*access, error) {
	way, err := relay.access(ctx, a)
	if way != nil {
		// What is no trace is none: a shell may have any variable.
		way.client.Trace, _ = stream.ParseTrace(a.env("TRACEPARENT"))
	}
	a.voice.advice.Cluster = way != nil && way.cluster != nil
	return way, err
}

// quiet keeps what client-go logs for itself, unless it was asked for.
func (a *app) quiet(cmd *cobra.Command) {
	klog.LogToStderr(false)
	if v := cmd.Flag("v"); v != nil && v.Changed {
		klog.SetOutput(a.voice)
		return
	}
	klog.SetOutput(io.Discard)
}

// completer is the name that kubectl looks for when it completes the arguments of
// the plugin kubectl-culvert.
const completer = "kubectl_complete-"

// completes tells whether the program was called to complete a plugin's arguments,
// and returns those of the call that does.
func completes(arg0 string, args []string) (string, []string, bool) {
	base := strings.TrimSuffix(filepath.Base(arg0), ".exe")
	plugin, ok := strings.CutPrefix(base, completer)
	if !ok {
		return arg0, args, false
	}
	return "kubectl-" + plugin, append([]string{cobra.ShellCompRequestCmd}, args...), true
}

// displayName is what the user types to get here: a plugin is called through
// kubectl.
func displayName(arg0 string) string {
	base := strings.TrimSuffix(filepath.Base(arg0), ".exe")
	if plugin, ok := strings.CutPrefix(base, "kubectl-"); ok {
		return "kubectl " + strings.ReplaceAll(plugin, "_", "-")
	}
	return "culvert"
}

// arguments makes cobra's complaints about the number of arguments usage
// errors with the given text.
func arguments(check cobra.PositionalArgs, text string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) != nil {
			return &usageError{text}
		}
		return nil
	}
}
