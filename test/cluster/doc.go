// Package cluster runs a real Kubernetes on one machine for tests: etcd, the
// control plane, and nodes with kubelet, kube-proxy, containerd and runc, all
// built from Go modules by "make cluster-binaries", each on a host of a
// lab.Network. Beside them are a relay host and a client host without anything.
//
// Every node has mount and host name namespaces of its own beside its network,
// so that what a pod mounts is where it is on a real node and not shared between
// nodes: /run/containerd/containerd.sock, /run/netns, /var/log and
// /var/lib/kubelet. Images come without a registry; see [Cluster.Import]. Pods
// must have imagePullPolicy Never.
//
// ClusterIPs are served by kube-proxy in its nftables mode, on the nodes and for
// their pods; the other hosts reach them over the first node. With
// Config.DNS a CoreDNS answers for the names of services; without it pods reach
// services by address or by the environment variables that kubelet sets. There is no cloud provider, no
// storage provisioner and no network policy.
//
// Everything ends with [Cluster.Close] and, should the test process be killed,
// by the reapers of the lab. It needs root and Linux.
package cluster
