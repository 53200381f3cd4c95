package main

import (
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// kubeFlags are kubectl's own flags about kubeconfig, cluster and user. They are
// bound to client-go and not to cli-runtime, which kubectl uses: that one makes
// the program twice as large, for printers that are not used here.
type kubeFlags struct {
	file     string
	override clientcmd.ConfigOverrides
	extra    []string

	read clientcmd.ClientConfig // once loader was called
}

func (k *kubeFlags) register(p *pflag.FlagSet) {
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.AuthOverrideFlags.Username.LongName = "" // no server takes passwords any more
	names.AuthOverrideFlags.Password.LongName = ""
	names.ClusterOverrideFlags.APIServer.ShortName = "s"
	clientcmd.BindOverrideFlags(&k.override, p, names)
	p.StringVar(&k.file, "kubeconfig", "", "Path to the kubeconfig file to use for CLI requests.")
	p.StringArrayVar(&k.extra, "as-user-extra", nil,
		"User extras to impersonate for the operation, this flag can be repeated to specify multiple values for the same key.")
	p.String("cache-dir", "", "Taken for kubectl's sake: nothing is cached")
	for name, text := range map[string]string{
		"namespace":          "namespace of the pod; default is that of the kubeconfig's context, or default",
		"client-certificate": "file with a client certificate to show to the API server and the relay, in place of a token",
		"client-key":         "file with the key of the client certificate",
		"token":              "bearer token to show to the API server and the relay",
	} {
		p.Lookup(name).Usage = text
	}
}

// loader reads the kubeconfig when it is asked.
func (k *kubeFlags) loader() clientcmd.ClientConfig {
	if k.read != nil {
		return k.read
	}
	for _, s := range k.extra {
		if key, value, ok := strings.Cut(s, "="); ok {
			if k.override.AuthInfo.ImpersonateUserExtra == nil {
				k.override.AuthInfo.ImpersonateUserExtra = make(map[string][]string)
			}
			k.override.AuthInfo.ImpersonateUserExtra[key] = append(k.override.AuthInfo.ImpersonateUserExtra[key], value)
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = k.file
	k.read = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &k.override)
	return k.read
}

// config returns where the API server is, and as whom it is asked.
func (k *kubeFlags) config() (*rest.Config, error) {
	cfg, err := k.loader().ClientConfig()
	if err != nil {
		return nil, err
	}
	cfg.UserAgent = rest.DefaultKubernetesUserAgent()
	cfg.WarningHandler = rest.NoWarnings{}
	return cfg, nil
}
