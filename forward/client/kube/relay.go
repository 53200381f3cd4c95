package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Where a cluster says how its relay is reached. The chart writes it.
const (
	RelayNamespace = "culvert-system"
	RelayConfigMap = "culvert-relay-ca"
)

// Extension marks a cluster of a kubeconfig whose server is a relay.
const Extension = "culvert.dev/relay"

// maxCA bounds the certificates that a ConfigMap may hand out, in bytes.
const maxCA = 256 << 10

// ErrNoRelay means that nothing says where the relay is.
var ErrNoRelay = errors.New("no relay found")

// Relay is how the relay of a cluster is reached.
type Relay struct {
	// Addr is HOST or HOST:PORT. It may be empty if only the CA was asked for.
	Addr string
	// ServerName is what the relay's certificate must name, empty for the host.
	ServerName string
	// CA holds the relay's authorities in PEM. Empty means those of the system.
	CA []byte
	// From says who said so.
	From string
}

// IsRelay tells whether a cluster of a kubeconfig is a relay.
func IsRelay(c *clientcmdapi.Cluster) bool {
	if c == nil {
		return false
	}
	_, marked := c.Extensions[Extension]
	return marked
}

// FromCluster returns the relay that a cluster of a kubeconfig is. server, ca and
// serverName are what is in force for it, flags included.
func FromCluster(server, serverName string, ca []byte) (Relay, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return Relay{}, fmt.Errorf("the relay in the kubeconfig has no address: server %q", server)
	}
	if u.Scheme != "https" {
		return Relay{}, fmt.Errorf("the relay in the kubeconfig is not reached by https: server %q", server)
	}
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), "443")
	}
	return Relay{Addr: addr, ServerName: serverName, CA: ca, From: "the kubeconfig"}, nil
}

// Find asks the cluster for its relay. Without an answer that helps the error
// wraps [ErrNoRelay], and what the API server said if it said something else
// than that it knows none.
func Find(ctx context.Context, api *API) (Relay, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	const name = "ConfigMap " + RelayNamespace + "/" + RelayConfigMap
	m, err := api.Core.ConfigMaps(RelayNamespace).Get(ctx, RelayConfigMap, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return Relay{}, fmt.Errorf("%w: the cluster has no %s", ErrNoRelay, name)
	case apierrors.IsForbidden(err):
		return Relay{}, fmt.Errorf("%w: %s may not be read", ErrNoRelay, name)
	case err != nil:
		return Relay{}, fmt.Errorf("%w: %s: %w", ErrNoRelay, name, err)
	}
	r := Relay{Addr: strings.TrimSpace(m.Data["address"]), CA: []byte(m.Data["ca.crt"]), From: name}
	if len(r.CA) > maxCA {
		return Relay{}, fmt.Errorf("%w: ca.crt of %s has %d bytes", ErrNoRelay, name, len(r.CA))
	}
	return r, nil
}
