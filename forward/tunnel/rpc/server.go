package rpc

import (
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// NewServer returns a gRPC server for connections of a [Listener], with every
// limit set: 64 calls a connection, 10 seconds for the HTTP/2 preface, messages
// of [MaxMessage] bytes, 8 KiB of metadata. Whether the peer still lives is the
// session's question, so the server sends no pings.
//
// Stop and GracefulStop wait for the handlers. They close the listener and the
// streams delivered to it, never the session beneath.
//
// extra is applied after the options of this package and can replace them,
// except grpc.Creds: without those of this package [Peer] knows nobody.
func NewServer(extra ...grpc.ServerOption) *grpc.Server {
	opts := []grpc.ServerOption{
		grpc.Creds(TransportCredentials()),
		grpc.WaitForHandlers(true),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Duration(math.MaxInt64)}),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.ReadBufferSize(bufferSize),
		grpc.WriteBufferSize(bufferSize),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
	}
	return grpc.NewServer(append(opts, extra...)...)
}
