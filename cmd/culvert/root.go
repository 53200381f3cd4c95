package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

const rootLong = `Forward local ports to pods through a Culvert relay.

The relay and the credential come from flags or from the environment:

  CULVERT_RELAY         --relay
  CULVERT_RELAY_CA      --relay-ca
  CULVERT_RELAY_CA_PIN  --relay-ca-pin
  CULVERT_TOKEN_FILE    --token-file

HTTPS_PROXY and NO_PROXY are honoured on the way to the relay.`

func (a *app) rootCommand() *cobra.Command {
	name := displayName(a.name)
	relay := new(relayFlags)
	root := &cobra.Command{
		Use:           "culvert",
		Short:         "Forward local ports to pods through a relay",
		Long:          rootLong,
		Args:          cobra.NoArgs,
		SilenceErrors: true, // fail prints them
		SilenceUsage:  true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: name},
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.voice)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err.Error()} })
	relay.register(root)
	_ = root.RegisterFlagCompletionFunc("namespace", a.completeNamespaces(relay))
	root.AddCommand(
		a.portForwardCommand(relay),
		a.ncCommand(relay),
		a.getCommand(relay),
		a.versionCommand(relay),
	)
	return root
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
