package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/forward/client/kube"
)

// build is what this program is made of. It is part of -o json.
type build struct {
	Version   string `json:"version"`
	Commit    string `json:"commit"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
}

// readBuild fills in what the linker was not told from what the compiler
// noted.
func readBuild(linked string) build {
	b := build{Version: linked, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = new(debug.BuildInfo)
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Commit = s.Value
		}
	}
	return b
}

// relayVersion is what -o json shows of the relay.
type relayVersion struct {
	ID              string     `json:"id"`
	Version         string     `json:"version"`
	ProtocolVersion uint32     `json:"protocolVersion"`
	Started         *time.Time `json:"started"`
	User            string     `json:"user"`
}

type versions struct {
	Client build         `json:"client"`
	Relay  *relayVersion `json:"relay,omitempty"`
}

func (a *app) versionCommand(relay *relayFlags) *cobra.Command {
	var output string
	var clientOnly bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of client and relay",
		Long: `Show the version of the client, and of the relay if there is one.

Without a relay in flags, environment, kubeconfig or cluster only the client's
version is shown.`,
		Args: arguments(cobra.NoArgs, "version takes no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			v := versions{Client: a.build}
			var err error
			if !clientOnly {
				v.Relay, err = a.askVersion(cmd.Context(), relay)
			}
			// The half that is known is shown even if the relay is away.
			if showErr := a.showVersions(v, output); err == nil {
				err = showErr
			}
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "show the client's version only, ask no relay")
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) askVersion(ctx context.Context, relay *relayFlags) (*relayVersion, error) {
	if c, err := relay.cluster(a); err == nil && c == nil && !relay.given(a.env) {
		return nil, nil // nothing was said about a relay
	}
	var v *relayVersion
	err := a.connected(ctx, relay, func(ctx context.Context, c *client.Client) error {
		about, err := c.About(ctx)
		if err != nil {
			return err
		}
		v = &relayVersion{
			ID:              about.GetRelayId(),
			Version:         about.GetVersion(),
			ProtocolVersion: about.GetProtocolVersion(),
			Started:         timeOf(about.GetStarted()),
			User:            about.GetUser(),
		}
		return nil
	})
	if errors.Is(err, kube.ErrNoRelay) {
		return nil, nil // a cluster without one
	}
	return v, err
}

func (a *app) showVersions(v versions, output string) error {
	if output == "json" {
		return writeJSON(a.out, v)
	}
	text := fmt.Sprintf("Client Version: %s\n", v.Client.Version)
	if v.Relay != nil {
		text += fmt.Sprintf("Relay Version: %s\n", v.Relay.Version)
	}
	_, err := fmt.Fprint(a.out, text)
	return err
}
