//go:build linux

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/culvert-k8s/culvert/test/lab"
)

const (
	apiPort = "6443"
	// kubeletUser is who the API server is at a kubelet.
	kubeletUser = "kube-apiserver-kubelet-client"
)

// serviceNet is the subnet of ClusterIPs; its first address is that of the
// service kubernetes. Hosts and pods of a lab are in 10.64.0.0/10 and
// 10.128.0.0/10.
var serviceNet = netip.MustParsePrefix("10.32.0.0/16")

// ControlPlane is what runs on the control host.
type ControlPlane struct {
	// Host is the host of all of them.
	Host *lab.Host
	// Etcd, APIServer, ControllerManager and Scheduler are the programs.
	Etcd, APIServer, ControllerManager, Scheduler *Daemon
}

// newControlPlane makes certificates and command lines; nothing is started yet.
func (c *Cluster) newControlPlane(extra []string) error {
	host := c.Network.Host(ControlHost)
	c.Control = &ControlPlane{Host: host}
	pki := filepath.Join(c.dir, "pki")
	signingKey := filepath.Join(pki, "service-account.key")
	front, err := newAuthority(pki, "front-proxy-ca")
	if err != nil {
		return err
	}
	proxy, err1 := front.client("front-proxy-client", "front-proxy-client")
	kubelet, err2 := c.ca.client(kubeletUser, kubeletUser)
	serving, err3 := c.ca.server("kube-apiserver", "kube-apiserver",
		[]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		host.Addr(), serviceNet.Addr().Next(), netip.MustParseAddr("127.0.0.1"))
	if err := errors.Join(err1, err2, err3, writeSigningKey(signingKey)); err != nil {
		return err
	}
	c.Control.Etcd = c.daemon(host, "etcd",
		"--name=lab", "--data-dir="+filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=lab=http://127.0.0.1:2380")
	c.Control.APIServer = c.daemon(host, "kube-apiserver", append([]string{
		"--etcd-servers=http://127.0.0.1:2379",
		"--bind-address=0.0.0.0", "--secure-port=" + apiPort, "--advertise-address=" + host.Addr().String(),
		"--cert-dir=" + pki, "--tls-cert-file=" + serving.certFile, "--tls-private-key-file=" + serving.keyFile,
		"--client-ca-file=" + c.ca.certFile,
		"--kubelet-client-certificate=" + kubelet.certFile, "--kubelet-client-key=" + kubelet.keyFile,
		"--kubelet-certificate-authority=" + c.ca.certFile, "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + front.certFile, "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + proxy.certFile, "--proxy-client-key-file=" + proxy.keyFile,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + signingKey, "--service-account-signing-key-file=" + signingKey,
		"--service-cluster-ip-range=" + serviceNet.String(), "--enable-aggregator-routing",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged", "--profiling=false",
	}, extra...)...)
	return c.newManagers(host, signingKey)
}

func (c *Cluster) newManagers(host *lab.Host, signingKey string) error {
	manager, err1 := c.UserKubeconfig("system:kube-controller-manager")
	scheduler, err2 := c.UserKubeconfig("system:kube-scheduler")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	c.Control.ControllerManager = c.daemon(host, "kube-controller-manager",
		"--kubeconfig="+manager, "--authentication-kubeconfig="+manager, "--authorization-kubeconfig="+manager,
		"--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials",
		"--service-account-private-key-file="+signingKey, "--root-ca-file="+c.ca.certFile,
		"--cluster-signing-cert-file="+c.ca.certFile, "--cluster-signing-key-file="+c.ca.keyFile)
	c.Control.Scheduler = c.daemon(host, "kube-scheduler",
		"--kubeconfig="+scheduler, "--authentication-kubeconfig="+scheduler, "--authorization-kubeconfig="+scheduler,
		"--bind-address=127.0.0.1", "--leader-elect=false")
	return nil
}

// daemon is a program of the binaries, started without anything around it.
func (c *Cluster) daemon(host *lab.Host, name string, args ...string) *Daemon {
	return newDaemon(host, lab.Command{Path: c.binaries.path(name), Args: args, Label: name})
}

// all returns the programs in the order in which they are started.
func (p *ControlPlane) all() []*Daemon {
	return []*Daemon{p.Etcd, p.APIServer, p.ControllerManager, p.Scheduler}
}

// startAPI starts etcd and the API server, waits until it serves, and gives it
// the right to use kubelets.
func (c *Cluster) startAPI(ctx context.Context) error {
	etcd, server := c.Control.Etcd, c.Control.APIServer
	if err := errors.Join(etcd.Start(), server.Start()); err != nil {
		return err
	}
	err := Await(ctx, "the API server", func(ctx context.Context) error {
		return c.Do(ctx, http.MethodGet, "/readyz", nil, nil)
	}, etcd, server)
	if err != nil {
		return err
	}
	return c.create(ctx, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
		"metadata": map[string]any{"name": kubeletUser},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:kubelet-api-admin"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": kubeletUser}},
	})
}

// awaitAccounts waits until pods can be made in the namespace default.
func (c *Cluster) awaitAccounts(ctx context.Context) error {
	return Await(ctx, "service accounts", func(ctx context.Context) error {
		const namespace = "/api/v1/namespaces/default"
		return errors.Join(
			c.Do(ctx, http.MethodGet, namespace+"/serviceaccounts/default", nil, nil),
			c.Do(ctx, http.MethodGet, namespace+"/configmaps/kube-root-ca.crt", nil, nil))
	}, c.Control.all()...)
}

// writeJSON writes a configuration file.
func writeJSON(path string, v any) error {
	content, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.WriteFile(path, content, 0o600)
}
