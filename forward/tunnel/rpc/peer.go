package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// ErrNotDelivered is returned by the server's handshake for a connection that
// did not come out of a [Listener]: nobody has vouched for its peer.
var ErrNotDelivered = errors.New("connection was not delivered by a tunnel listener")

// Peer returns the identity that was delivered together with the connection of
// the call whose handler runs with ctx. It is nil if nil was delivered or ctx
// is not the context of such a handler.
func Peer(ctx context.Context) any {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	id, ok := p.AuthInfo.(identity)
	if !ok {
		return nil
	}
	return id.peer
}

// TransportCredentials returns the server's side of the identity: no handshake
// on the wire, only what [Listener.Deliver] was told. [NewServer] uses them
// already. They are of no use to a client and refuse to be used as one.
func TransportCredentials() credentials.TransportCredentials { return deliveredCredentials{} }

// identity carries what Deliver was told through gRPC to Peer.
type identity struct {
	credentials.CommonAuthInfo
	peer any
}

// AuthType names the way in which the identity was found.
func (identity) AuthType() string { return "tunnel" }

type deliveredCredentials struct{}

func (deliveredCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	d, ok := conn.(*delivered)
	if !ok {
		return nil, nil, fmt.Errorf("take connection of type %T: %w", conn, ErrNotDelivered)
	}
	// gRPC is told of no security at this level: what protects the bytes lies
	// beneath and is not this package's to promise.
	level := credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}
	return d.Conn, identity{CommonAuthInfo: level, peer: d.peer}, nil
}

func (deliveredCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("delivered credentials are for servers only")
}

func (deliveredCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tunnel"}
}

func (c deliveredCredentials) Clone() credentials.TransportCredentials { return c }

func (deliveredCredentials) OverrideServerName(string) error { return nil }
