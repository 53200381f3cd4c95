package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/forward/client/kube"
)

// completeTimeout bounds how long a shell waits behind the tab key.
const completeTimeout = 2 * time.Second

// Whoever cannot be asked, an error above all, costs candidates and nothing else:
// an error would end up among those of the shell.

// completeTarget offers [TYPE/]NAME for the first argument, in the form the user
// began to type, and ports after it.
func (a *app) completeTarget(relay *relayFlags, ports bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := completing(cmd)
		defer cancel()
		if selector := cmd.Flag("selector"); len(args) > 0 || selector != nil && selector.Changed {
			if !ports {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return starting(a.portNames(ctx, relay, cmd, args), toComplete), cobra.ShellCompDirectiveNoFileComp
		}
		typ, _, typed := strings.Cut(toComplete, "/")
		if !typed {
			names := starting(a.names(ctx, relay, "pods"), toComplete)
			types := starting(a.types(relay), toComplete)
			if len(types) > 0 && len(names) == 0 {
				return types, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		}
		ref, err := client.ParseRef(typ + "/x")
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, name := range a.names(ctx, relay, ref.Type) {
			out = append(out, typ+"/"+name)
		}
		return starting(out, toComplete), cobra.ShellCompDirectiveNoFileComp
	}
}

func completing(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	ctx := cmd.Context()
	if ctx == nil { // cobra completes flags without one
		ctx = context.Background()
	}
	return context.WithTimeout(ctx, completeTimeout)
}

func starting(candidates []string, prefix string) []string {
	return slices.DeleteFunc(candidates, func(s string) bool { return !strings.HasPrefix(s, prefix) })
}

// types are what may stand before a slash, where there is more than pods.
func (a *app) types(relay *relayFlags) []string {
	if c, err := relay.cluster(a); err != nil || c == nil {
		return nil
	}
	return []string{
		"daemonset/", "deployment/", "job/", "pod/", "replicaset/", "replicationcontroller/", "service/", "statefulset/",
	}
}

// names are the objects of a type in the namespace.
func (a *app) names(ctx context.Context, relay *relayFlags, plural string) []string {
	c, err := relay.cluster(a)
	if err != nil {
		return nil
	}
	if c != nil {
		names, _ := kube.Names(ctx, c.api, c.namespace, plural)
		return names
	}
	var out []string
	if plural != "pods" {
		return nil
	}
	for _, p := range a.podsOfRelay(ctx, relay, false) {
		out = append(out, p.Name)
	}
	return out
}

// portNames are the ports of the target, by number and by name.
func (a *app) portNames(ctx context.Context, relay *relayFlags, cmd *cobra.Command, args []string) []string {
	c, err := relay.cluster(a)
	if err != nil || c == nil {
		return nil
	}
	cfg := kube.Config{API: c.api, Namespace: c.namespace}
	if selector := cmd.Flag("selector"); selector != nil && selector.Changed {
		cfg.Selector = selector.Value.String()
	} else if cfg.Ref, err = client.ParseRef(args[0]); err != nil {
		return nil
	}
	f, err := kube.Follow(ctx, cfg)
	if err != nil {
		return nil
	}
	return f.PortNames()
}

// completeFlags offers what the flags of every command may name.
func (a *app) completeFlags(root *cobra.Command, relay *relayFlags) {
	_ = root.RegisterFlagCompletionFunc("namespace", func(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := completing(cmd)
		defer cancel()
		return starting(a.namespaces(ctx, relay), toComplete), cobra.ShellCompDirectiveNoFileComp
	})
	for flag, of := range map[string]func(*clientcmdapi.Config) []string{
		"context": func(c *clientcmdapi.Config) []string { return slices.Sorted(maps.Keys(c.Contexts)) },
		"cluster": func(c *clientcmdapi.Config) []string { return slices.Sorted(maps.Keys(c.Clusters)) },
		"user":    func(c *clientcmdapi.Config) []string { return slices.Sorted(maps.Keys(c.AuthInfos)) },
	} {
		_ = root.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			raw, err := relay.kube.loader().RawConfig()
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return starting(of(&raw), toComplete), cobra.ShellCompDirectiveNoFileComp
		})
	}
}

// namespaces are those of the cluster, or those that have pods.
func (a *app) namespaces(ctx context.Context, relay *relayFlags) []string {
	c, err := relay.cluster(a)
	if err != nil {
		return nil
	}
	if c != nil {
		names, _ := kube.Names(ctx, c.api, "", "namespaces")
		return names
	}
	seen := make(map[string]bool)
	for _, p := range a.podsOfRelay(ctx, relay, true) {
		seen[p.Namespace] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// podsOfRelay asks a relay without Kubernetes for the pods of the namespace, or
// of all.
func (a *app) podsOfRelay(ctx context.Context, relay *relayFlags, all bool) []pod {
	way, err := relay.standalone(a)
	if err != nil {
		return nil
	}
	namespace := way.namespace
	if all {
		namespace = ""
	}
	var out []pod
	_ = way.connected(ctx, func(ctx context.Context, c *client.Client) error {
		list, err := c.Pods(ctx, namespace)
		for _, p := range list {
			out = append(out, podOf(p))
		}
		return err
	})
	return out
}

// completionForKubectl adds the command that makes kubectl complete the plugin's
// arguments: it looks for an executable of a certain name.
func (a *app) completionForKubectl(root *cobra.Command) {
	completion, _, err := root.Find([]string{"completion"})
	if err != nil || completion == root {
		return
	}
	var dir string
	cmd := &cobra.Command{
		Use:   "kubectl --install DIR",
		Short: "Have kubectl complete the arguments of the plugin",
		Long: `Have kubectl complete the arguments of "kubectl culvert".

kubectl 1.26 and later look for an executable named kubectl_complete-culvert in
the PATH. This makes it: a link to this program in the directory given, beside
one named kubectl-culvert, which is the plugin.`,
		Args: arguments(cobra.NoArgs, "completion kubectl takes no arguments"),
		RunE: func(*cobra.Command, []string) error {
			if dir == "" {
				return &usageError{"--install DIR is required: a directory in the PATH"}
			}
			return a.installPlugin(dir)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&dir, "install", "", "directory in the PATH to put the links into")
	_ = cmd.MarkFlagDirname("install")
	completion.AddCommand(cmd)
}

// installPlugin links the two names that kubectl looks for to this program.
func (a *app) installPlugin(dir string) error {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	suffix := ""
	if runtime.GOOS == "windows" {
		suffix = ".exe"
	}
	for _, name := range []string{"kubectl-culvert", completer + "culvert"} {
		link := filepath.Join(dir, name+suffix)
		if there, err := filepath.EvalSymlinks(link); err == nil && there == self {
			continue // it is this program, by whatever name
		}
		if err := os.Symlink(self, link); err != nil {
			return &hintError{fmt.Errorf("install %s: %w", name, err), "copy this program there under that name instead"}
		}
		a.voice.say("%s is %s now", link, self)
	}
	return nil
}
