// Package sandbox knows the pods of a node and where their network namespaces
// are. A source is either [Containerd], which follows a container runtime, or
// [Named], which takes the named namespaces of a machine without one.
//
// A source answers from an index that it keeps fresh by itself. What it says may
// be out of date by a moment: a path that is gone is found out when it is opened.
package sandbox

import (
	"errors"
	"time"
)

var (
	// ErrNotFound means that there is no such pod on this node. It is only said
	// after the runtime itself was asked.
	ErrNotFound = errors.New("no such pod on this node")
	// ErrBusy means that too many pods that are not in the index were asked for
	// at once.
	ErrBusy = errors.New("too many lookups of unknown pods")
	// ErrUnavailable means that the pod is not in the index and that the runtime
	// cannot be asked now, so that nobody knows whether the pod is here.
	ErrUnavailable = errors.New("container runtime cannot be asked")

	errNotListed = errors.New("pods were not listed yet")
)

// Limits of what is taken from a runtime and from callers, in bytes.
const (
	maxUID       = 128
	maxName      = 253
	maxNamespace = 63
	maxSpec      = 1 << 20
	maxPath      = 4096
)

// defaultMaxPods is far beyond what one node runs.
const defaultMaxPods = 4096

// Pod is a pod sandbox on this node. It is comparable.
type Pod struct {
	// Namespace and Name are those of the pod, UID what tells it from an earlier
	// pod of the same name.
	Namespace, Name, UID string
	// NetNS is the path of its network namespace, empty with host networking.
	NetNS string
	// HostNetwork says that the pod shares the network of the node.
	HostNetwork bool
	// Created is when the sandbox was made, in UTC.
	Created time.Time
}

// validUID says whether uid can be a UID at all. Kubernetes makes only UUIDs and
// hashes in hexadecimal; the set is wider for other sources, but has nothing that
// means anything in a filter expression or a path.
func validUID(uid string) bool {
	if uid == "" || len(uid) > maxUID {
		return false
	}
	for _, c := range []byte(uid) {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// signal is a channel that remembers one value.
type signal chan struct{}

func (s signal) raise() {
	select {
	case s <- struct{}{}:
	default: // nobody has seen the last one yet
	}
}
