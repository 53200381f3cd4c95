package client

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// Target is one port of one pod.
type Target struct {
	// Namespace and Pod name the pod, at most 63 and 253 bytes.
	Namespace, Pod string
	// Port is the TCP port inside the pod, 1 to 65535.
	Port uint16
}

// String returns namespace/pod:port.
func (t Target) String() string {
	return fmt.Sprintf("%s/%s:%d", t.Namespace, t.Pod, t.Port)
}

func (t Target) open() *stream.Open {
	return &stream.Open{
		Kind:      stream.KindForward,
		ID:        stream.NewID(),
		Namespace: t.Namespace,
		Pod:       t.Pod,
		Port:      t.Port,
	}
}

// opening is the request for a stream to t. It begins a step of the trace that the
// program runs in, or a trace of its own.
func (c *Client) opening(t Target) *stream.Open {
	o := t.open()
	o.Trace = c.cfg.Trace.Child()
	return o
}

// ErrNeedsKubernetes is wrapped by the errors for targets that only
// Kubernetes can resolve to a pod.
var ErrNeedsKubernetes = errors.New("a standalone relay knows pods only")

// Ref is what a person names on the command line: [TYPE/]NAME.
type Ref struct {
	// Type is the canonical plural, "pods" when none was given.
	Type string
	// Name is the object's name.
	Name string
}

// ParseRef reads [TYPE/]NAME; a bare name is a pod. It accepts the types that
// port-forwarding can resolve and their usual short forms, and refuses others.
func ParseRef(s string) (Ref, error) {
	typ, name, typed := strings.Cut(s, "/")
	if !typed {
		typ, name = "pods", s
	}
	if typ == "" || name == "" || strings.Contains(name, "/") {
		return Ref{}, fmt.Errorf("target %q: want [TYPE/]NAME", s)
	}
	plural := resource(typ)
	if plural == "" {
		return Ref{}, fmt.Errorf("target %q: unknown type %q", s, typ)
	}
	if err := checkName(name, stream.MaxPod); err != nil {
		return Ref{}, fmt.Errorf("target %q: name %w", s, err)
	}
	return Ref{Type: plural, Name: name}, nil
}

// String returns TYPE/NAME.
func (r Ref) String() string { return r.Type + "/" + r.Name }

// PodName returns the name of the pod a Ref stands for. Types other than pods
// need somebody who can ask Kubernetes, and are refused with an error that
// wraps [ErrNeedsKubernetes].
func (r Ref) PodName() (string, error) {
	if r.Type != "pods" {
		return "", fmt.Errorf("target %s/%s: %w", r.Type, r.Name, ErrNeedsKubernetes)
	}
	return r.Name, nil
}

// CheckNamespace says whether s can be a namespace: 1 to 63 bytes, no slash,
// space or control character.
func CheckNamespace(s string) error {
	if err := checkName(s, stream.MaxNamespace); err != nil {
		return fmt.Errorf("namespace %q %w", s, err)
	}
	return nil
}

// resource returns the canonical plural of a type, empty if it has no pods.
func resource(typ string) string {
	switch typ {
	case "po", "pod", "pods":
		return "pods"
	case "svc", "service", "services":
		return "services"
	case "deploy", "deployment", "deployments", "deployment.apps", "deployments.apps":
		return "deployments"
	case "rs", "replicaset", "replicasets", "replicaset.apps", "replicasets.apps":
		return "replicasets"
	case "sts", "statefulset", "statefulsets", "statefulset.apps", "statefulsets.apps":
		return "statefulsets"
	case "ds", "daemonset", "daemonsets", "daemonset.apps", "daemonsets.apps":
		return "daemonsets"
	case "rc", "replicationcontroller", "replicationcontrollers":
		return "replicationcontrollers"
	case "job", "jobs", "job.batch", "jobs.batch":
		return "jobs"
	}
	return ""
}

// checkName is deliberately wider than Kubernetes' own rule: an agent without
// a container runtime takes names from the node, and the relay has the last
// word. It only keeps out what could not be told apart on a terminal.
func checkName(s string, limit int) error {
	if s == "" {
		return errors.New("is empty")
	}
	if len(s) > limit {
		return fmt.Errorf("is longer than %d bytes", limit)
	}
	for _, r := range s {
		if r == '/' || r == unicode.ReplacementChar || !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			return fmt.Errorf("must not contain %q", r)
		}
	}
	return nil
}
