// Package relay is the middle of a forward: agents keep tunnels to it, clients
// ask it for streams to pods, and it copies each stream between the two legs
// without opening its frames.
//
// A connection is authenticated before anything is allocated for it, every
// stream is authorized on its own, and one log line is written when a stream
// ends. Who a caller is, what he may, and where a pod runs are asked through
// the interfaces in this file; the standalone relay and the Kubernetes one
// differ only in what stands behind them.
package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/policy"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Role is what an authenticated peer may do.
type Role uint8

// Roles. RoleJoiner is an agent without a certificate that holds a join token:
// it may ask for one and nothing else.
const (
	RoleNode   Role = 1
	RoleUser   Role = 2
	RoleJoiner Role = 3
)

// String returns "node", "user" or "joiner".
func (r Role) String() string {
	switch r {
	case RoleNode:
		return "node"
	case RoleUser:
		return "user"
	case RoleJoiner:
		return "joiner"
	}
	return "nobody"
}

// Identity is who a peer proved to be.
type Identity struct {
	Role   Role
	Name   string   // node name or user name
	Groups []string // of a user, all of them
	// Exact is the name as whoever knows the user spells it, if Name is a copy made
	// fit for log lines and for the wire. Empty: Name is exact.
	Exact string
	// Cert is the verified certificate, nil if the peer proved itself otherwise.
	Cert *x509.Certificate
	// Proof is for the Authenticator, to judge the peer again later. The relay
	// keeps it and does not look at it.
	Proof any
}

// Authenticator says who a peer is from the TLS session and the Hello sent on
// it. state.NegotiatedProtocol tells agents from clients: it is one of the two.
// A refusal has a *stream.Error in its chain, whose text goes to the peer. The
// text of any other error stays here, and so does that of one with the code
// Internal: those are faults of the relay.
type Authenticator interface {
	Authenticate(ctx context.Context, state tls.ConnectionState, hello *stream.Hello) (Identity, error)
}

// Revalidator is an optional part of an Authenticator: it is asked again about
// peers whose session lives on, from time to time, before every stream and
// before every call. A refusal (Unauthenticated or Forbidden) ends the session
// and what runs on it. Any other error refuses only what was asked for.
type Revalidator interface {
	Revalidate(ctx context.Context, who Identity) error
}

// TokenRenewer is an optional part of an Authenticator: it takes the next token
// of a node whose credential is a token that ends. The new Identity replaces who,
// whose Name it keeps; renewAt is when the node should come with the next one. A
// refusal is a *stream.Error.
type TokenRenewer interface {
	RenewToken(ctx context.Context, who Identity, token string) (next Identity, renewAt time.Time, err error)
}

// Issuer makes certificates for nodes. A refusal is a *stream.Error.
type Issuer interface {
	// IssueNode answers a joiner: the name is the one in the request.
	IssueNode(csr []byte) (chain [][]byte, renewAt time.Time, err error)
	// RenewNode answers the node that showed the certificate.
	RenewNode(cert *x509.Certificate, csr []byte) (chain [][]byte, renewAt time.Time, err error)
}

// Target is what a client asks for.
type Target struct {
	Namespace, Pod string
	Port           uint16
}

// Place is where a pod is.
type Place struct {
	Node string
	UID  string
	// About is what a policy may look at, nil if who found the pod does not know.
	About *policy.Pod
}

// Locator finds pods. An unknown pod is a *stream.Error with PodNotFound.
type Locator interface {
	Locate(ctx context.Context, who Identity, t Target) (Place, error)
}

// Forgetter is an optional part of a Locator: it hears that a place it named was
// wrong, so that it looks again when it is asked the next time. A stream that
// failed for that reason is tried once more.
type Forgetter interface {
	Forget(t Target, wrong Place)
}

// Oversight is one thing that an overseer may do.
type Oversight uint8

// What there is to oversee.
const (
	SeeNodes    Oversight = 1 // list the nodes
	SeeStreams  Oversight = 2 // list the streams of others
	StopStreams Oversight = 3 // end the streams of others
)

// Overseer decides what a user may see and do of others. It is asked when a client
// lists nodes or streams, or stops a stream that is not his; who may nothing of it
// sees streams of his own only, may stop them, and sees no nodes. A Config without
// one shows everybody everything, and lets holders of the client token stop it.
type Overseer interface {
	Oversees(ctx context.Context, who Identity, what Oversight) (bool, error)
}

// Authorizer decides on each stream. A refusal is a *stream.Error.
type Authorizer interface {
	Authorize(ctx context.Context, who Identity, t Target) error
}

// Knower is an optional part of an Authorizer: it is asked for the name and groups
// that a caller has now, where a policy decides by them.
type Knower interface {
	Known(ctx context.Context, who Identity) (Identity, error)
}
