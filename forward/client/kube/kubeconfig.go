package kube

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Errors of AddContext that a person can do something about.
var (
	ErrNoContext   = errors.New("the kubeconfig has no current context")
	ErrIsRelay     = errors.New("leads through a relay already")
	ErrCertificate = errors.New("is a client certificate, which ends at the relay")
)

// ContextSuffix is what the name of a context through a relay ends with.
const ContextSuffix = "-culvert"

// Addition is a context to be added to a kubeconfig.
type Addition struct {
	// From is the context that the new one resembles. Required.
	From string
	// Name is that of the new context and its cluster. Empty means From with
	// ContextSuffix.
	Name string
	// Relay is where the new one leads: Addr is HOST:PORT.
	Relay Relay
	// Certificates lets users with a client certificate through, for a relay that
	// is allowed to impersonate.
	Certificates bool
}

// extension is what marks a cluster as a relay. Its content is for people.
const extension = `{"apiVersion":"culvert.dev/v1","kind":"Relay"}`

// AddContext adds a context to cfg that leads through a relay, with user and
// namespace of the one it comes from, and returns its name. A context of that
// name is replaced if it leads through a relay, else it is an error.
func AddContext(cfg *clientcmdapi.Config, a Addition) (name string, replaced bool, err error) {
	from, known := cfg.Contexts[a.From]
	switch {
	case a.From == "":
		return "", false, ErrNoContext
	case !known:
		return "", false, fmt.Errorf("context %q does not exist", a.From)
	case IsRelay(cfg.Clusters[from.Cluster]):
		return "", false, fmt.Errorf("context %q %w", a.From, ErrIsRelay)
	}
	if user := cfg.AuthInfos[from.AuthInfo]; user != nil && onlyCertificate(user) && !a.Certificates {
		return "", false, fmt.Errorf("user %q of context %q %w", from.AuthInfo, a.From, ErrCertificate)
	}
	if name = a.Name; name == "" {
		name = a.From + ContextSuffix
	}
	if there := cfg.Contexts[name]; there != nil {
		if there.Cluster != name || !IsRelay(cfg.Clusters[name]) {
			return "", false, fmt.Errorf("context %q exists and is something else", name)
		}
		replaced = true
	} else if cfg.Clusters[name] != nil && !IsRelay(cfg.Clusters[name]) {
		return "", false, fmt.Errorf("cluster %q exists and is something else", name)
	}
	cluster := clientcmdapi.NewCluster()
	if there := cfg.Clusters[name]; there != nil {
		cluster.LocationOfOrigin = there.LocationOfOrigin
	}
	cluster.Server = "https://" + a.Relay.Addr
	cluster.TLSServerName = a.Relay.ServerName
	cluster.CertificateAuthorityData = a.Relay.CA
	cluster.Extensions[Extension] = &runtime.Unknown{Raw: []byte(extension), ContentType: runtime.ContentTypeJSON}
	context := from.DeepCopy()
	context.Cluster = name
	context.LocationOfOrigin = cluster.LocationOfOrigin
	cfg.Clusters[name], cfg.Contexts[name] = cluster, context
	return name, replaced, nil
}

// onlyCertificate tells whether a user has nothing but a client certificate.
func onlyCertificate(u *clientcmdapi.AuthInfo) bool {
	cert := u.ClientCertificate != "" || len(u.ClientCertificateData) > 0
	return cert && u.Token == "" && u.TokenFile == "" && u.Exec == nil && u.AuthProvider == nil
}

// Reduce returns a kubeconfig with nothing but one context of cfg, as the current
// one.
func Reduce(cfg *clientcmdapi.Config, context string) (*clientcmdapi.Config, error) {
	c, known := cfg.Contexts[context]
	if !known {
		return nil, fmt.Errorf("context %q does not exist", context)
	}
	out := clientcmdapi.NewConfig()
	out.CurrentContext = context
	out.Contexts[context] = c
	if cluster := cfg.Clusters[c.Cluster]; cluster != nil {
		out.Clusters[c.Cluster] = cluster
	}
	if user := cfg.AuthInfos[c.AuthInfo]; user != nil {
		out.AuthInfos[c.AuthInfo] = user
	}
	return out, nil
}
