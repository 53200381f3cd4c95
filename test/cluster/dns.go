//go:build linux

package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/culvert-k8s/culvert/test/lab"
)

const (
	dnsImage   = "culvert.test/coredns:1"
	dnsDomain  = "cluster.local"
	dnsProgram = "coredns"
)

// dnsAddr is the ClusterIP of the DNS server: the tenth of the subnet, as usual.
var dnsAddr = netip.MustParseAddr("10.32.0.10")

// startDNS runs CoreDNS on the nodes and waits until it answers for pods.
func (c *Cluster) startDNS(ctx context.Context) error {
	image := lab.Image{Ref: dnsImage, Program: c.binaries.path(dnsProgram), Args: []string{"-conf", "/etc/coredns/Corefile"}}
	if err := c.Import(ctx, image); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	text := strings.NewReplacer("IMAGE", dnsImage, "ADDRESS", dnsAddr.String(), "DOMAIN", dnsDomain).Replace(dnsManifest)
	if err := c.Apply(ctx, text); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	_, err := c.Kubectl(ctx, "rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=2m")
	return err
}

const dnsManifest = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: system:coredns}
rules:
- {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: system:coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns}
subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    .:53 {
      errors
      health
      ready
      kubernetes DOMAIN in-addr.arpa ip6.arpa
      cache 2
    }
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  selector: {k8s-app: kube-dns}
  clusterIP: ADDRESS
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system}
spec:
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: coredns
        image: IMAGE
        imagePullPolicy: Never
        readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}
        volumeMounts: [{name: config, mountPath: /etc/coredns, readOnly: true}]
      volumes: [{name: config, configMap: {name: coredns}}]
`
