// Package kube asks a real kube-apiserver what forward/relay/kube and the rooms
// below it ask: who an agent is, who a caller is, what he may, where his pod runs,
// and what happens when rights, tokens, pods and the server go away.
//
// It needs root, Linux and what "make cluster-binaries" builds.
package kube
