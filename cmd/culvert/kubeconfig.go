package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/culvert-k8s/culvert/forward/client/kube"
)

const kubeconfigLong = `Add a context to the kubeconfig that leads kubectl through the relay.

The new context has the user and the namespace of the current one, or of
--context; its cluster is the relay. kubectl works through it as before, and its
port-forward goes through Culvert. The current context stays what it is, unless
there is --use.

Without --relay the relay is the one that the ConfigMap
culvert-system/culvert-relay-ca names; without --relay-ca its authority is taken
from there too, or is one that the system trusts.`

const kubeconfigExample = `  # Add a context for the current cluster, and use it once
  %[1]s kubeconfig
  kubectl --context CURRENT-culvert port-forward svc/web 8080:80

  # Name the relay
  %[1]s kubeconfig --relay relay.example.com --relay-ca ca.crt

  # Write a file of its own, for somebody else
  %[1]s kubeconfig -o culvert.yaml`

// addContext is the command that writes kubeconfigs.
type addContext struct {
	*app
	relay       *relayFlags
	title, file string
	print       bool
	use         bool
	force       bool
}

func (a *app) kubeconfigCommand(relay *relayFlags) *cobra.Command {
	k := &addContext{app: a, relay: relay}
	cmd := &cobra.Command{
		Use:     "kubeconfig",
		Short:   "Add a context that leads kubectl through the relay",
		Long:    kubeconfigLong,
		Example: fmt.Sprintf(kubeconfigExample, displayName(a.name)),
		Args:    arguments(cobra.NoArgs, "kubeconfig takes no arguments"),
		RunE:    k.run,

		ValidArgsFunction: cobra.NoFileCompletions,
	}
	p := cmd.Flags()
	p.StringVar(&k.title, "name", "", "name of the new context; default is that of the current one with -culvert")
	p.StringVarP(&k.file, "output", "o", "", "file to write the new context to, with its user, in place of the kubeconfig")
	p.BoolVar(&k.print, "print", false, "write the new context to standard output, with its user")
	p.BoolVar(&k.use, "use", false, "make the new context the current one")
	p.BoolVar(&k.force, "force", false, "even for a user with a client certificate, whom the relay must be allowed to impersonate")
	cmd.MarkFlagsMutuallyExclusive("output", "print")
	return cmd
}

func (k *addContext) run(cmd *cobra.Command, _ []string) error {
	if k.relay.pin != "" {
		return &usageError{"a kubeconfig has no pins: give --relay-ca"}
	}
	access := writable(&k.relay.kube)
	cfg, err := access.GetStartingConfig()
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	add := kube.Addition{From: cfg.CurrentContext, Name: k.title, Certificates: k.force}
	if named := k.relay.kube.override.CurrentContext; named != "" {
		add.From = named
	}
	if _, _, err := kube.AddContext(cfg.DeepCopy(), add); err != nil {
		return k.refused(err) // before anybody is asked
	}
	c, err := openCluster(&k.relay.kube, k.app, true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
	defer cancel()
	if add.Relay, err = k.find(ctx, c); err != nil {
		return err
	}
	name, replaced, err := kube.AddContext(cfg, add)
	if err != nil {
		return k.refused(err)
	}
	if k.print || k.file != "" {
		return k.export(cfg, name)
	}
	if k.use {
		cfg.CurrentContext = name
	}
	if err := clientcmd.ModifyConfig(access, *cfg, true); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	done := "created"
	if replaced {
		done = "modified"
	}
	fmt.Fprintf(k.out, "Context %q %s.\n", name, done)
	if k.use {
		fmt.Fprintf(k.out, "Switched to context %q.\n", name)
	}
	return nil
}

// find returns address and authority of the relay.
func (k *addContext) find(ctx context.Context, c *cluster) (kube.Relay, error) {
	if err := k.relay.checkRelay(k.env); err != nil {
		return kube.Relay{}, err
	}
	if err := c.find(ctx, k.relay); err != nil {
		return kube.Relay{}, err
	}
	host, port, err := splitRelay(c.relay.Addr)
	if err != nil {
		return kube.Relay{}, err
	}
	relay := kube.Relay{Addr: net.JoinHostPort(host, port), CA: c.relay.CA}
	if k.relay.set.Changed("tls-server-name") {
		relay.ServerName = k.relay.kube.override.ClusterInfo.TLSServerName
	}
	if k.relay.ca == "" {
		return relay, nil
	}
	if _, err := relayAt(relay.Addr, k.relay.tls(k.voice)); err != nil {
		return kube.Relay{}, err // says what is wrong with the file
	}
	relay.CA, err = os.ReadFile(k.relay.ca)
	return relay, err
}

// refused says what to do about a context that cannot be added.
func (k *addContext) refused(err error) error {
	program := displayName(k.name)
	switch {
	case errors.Is(err, kube.ErrCertificate):
		return &hintError{err, "use a user with a token, or give --force if the relay runs with --impersonate and --kube-client-ca"}
	case errors.Is(err, kube.ErrIsRelay):
		return &hintError{err, "name another one: " + program + " kubeconfig --context NAME"}
	case errors.Is(err, kube.ErrNoContext):
		return &hintError{err, "name one: " + program + " kubeconfig --context NAME"}
	}
	return &hintError{err, "choose another name with --name"}
}

// export writes the context with its user, and with what they refer to in files,
// where it can be used alone.
func (k *addContext) export(cfg *clientcmdapi.Config, name string) error {
	out, err := kube.Reduce(cfg, name)
	if err != nil {
		return err
	}
	if err := clientcmdapi.FlattenConfig(out); err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	b, err := clientcmd.Write(*out)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	if k.print {
		_, err := k.out.Write(b)
		return err
	}
	f, err := os.OpenFile(k.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &hintError{err, "choose another file, or leave out -o to add the context to the kubeconfig"}
	}
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		_ = f.Close() // the other error matters
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	fmt.Fprintf(k.out, "Context %q written to %s.\n", name, k.file)
	return nil
}
