// Package dataplane proves by packet captures which way a forwarded byte goes:
// over the connection that the agent opened to the relay and over the loopback
// device inside the pod, and over nothing else.
//
// Every claim is a function of captured packets or of a socket table, and a
// control breaks each one on purpose, so that a proof cannot pass because its
// captures saw nothing. The pods are bare network namespaces first, and then
// pods that containerd, runc and CNI made.
package dataplane
