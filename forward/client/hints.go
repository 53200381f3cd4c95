package client

import (
	"cmp"
	"fmt"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// Advice words hints for one way of calling the program.
type Advice struct {
	// Program is what a person types to call it. Empty means culvert.
	Program string
	// Cluster tells that callers and pods are those of a Kubernetes cluster.
	Cluster bool
}

// Hint returns what a person can do next about a stream to t that ended with
// the code: one line, lower case, no full stop. It is empty when there is
// nothing to advise.
func (a Advice) Hint(code stream.Code, t Target) string {
	program := cmp.Or(a.Program, "culvert")
	switch code {
	case stream.NotListening:
		return "check the port, and that the program in the pod is up and listens on localhost or on all addresses"
	case stream.PodNotFound:
		return fmt.Sprintf("list the pods with: %s get pods -n %s", program, t.Namespace)
	case stream.WrongNode, stream.NamespaceGone:
		return "the pod has just moved or ended; the next connection asks again"
	case stream.Policy:
		return "the policy of the relay, of the pod or of its node's agent refuses this; see which with: " + program + " doctor, and ask whoever runs it"
	case stream.Unauthenticated:
		if a.Cluster {
			return "the cluster does not accept the credential; log in again and compare: kubectl auth whoami"
		}
		return "the relay does not accept the credential; check --token-file or --client-certificate"
	case stream.Forbidden:
		if a.Cluster {
			return fmt.Sprintf("you may need create on pods/portforward; see: %s doctor -n %s", program, t.Namespace)
		}
		return "ask whoever runs the relay for access to this pod"
	case stream.AgentOffline:
		return fmt.Sprintf("the pod's node has no tunnel to the relay now; see: %s get nodes", program)
	case stream.Overloaded:
		return "too much is open already; close some connections or try again"
	case stream.Timeout:
		return "the pod or its node did not answer in time; try again"
	case stream.Internal:
		return "something failed at the relay or the agent; their logs say more"
	case stream.Unsupported, stream.Malformed:
		return fmt.Sprintf("client and relay do not understand each other; compare: %s version", program)
	case stream.PodReset:
		return "the program in the pod broke the connection off; its logs may say why"
	case stream.Stopped:
		return "somebody who runs the relay ended this connection; ask them before you open it again"
	case stream.GoingAway:
		return "the relay or the agent is shutting down; the next connection takes another way"
	case stream.Unreachable:
		return "the way to the pod broke or is blocked; try again, and see the logs of the agent if it repeats"
	}
	return ""
}
