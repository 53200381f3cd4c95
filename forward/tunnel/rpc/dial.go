package rpc

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// target names the far end in errors and in the :authority of calls. The
// passthrough scheme hands it to the dialer as it is, so that no name is ever
// looked up.
const target = "passthrough:///tunnel"

// Dial returns a gRPC client whose connection is a stream that open returns.
//
// Dial itself opens nothing: open is called when the first call needs it, and
// again when a call comes after the stream was lost or was given up for having
// been idle for a minute. The context of open ends after 10 seconds at the
// latest. The connection that open returns belongs to the client from then on;
// open must have sent whatever must go before the first byte of HTTP/2.
//
// When open fails, calls fail with codes.Unavailable and its text, and at most
// one more attempt per second is made, ever more seldom, until a minute has
// passed without a call. A call that should rather wait says so with
// grpc.WaitForReady.
//
// extra is applied after the options of this package and can replace them, for
// example the message limit. The caller closes the client, which closes the
// stream but not the session.
func Dial(open func(ctx context.Context) (net.Conn, error), extra ...grpc.DialOption) (*grpc.ClientConn, error) {
	dial := func(ctx context.Context, _ string) (net.Conn, error) { return open(ctx) }
	opts := []grpc.DialOption{
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithDisableHealthCheck(),
		grpc.WithIdleTimeout(idleTimeout),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay:  minBackoff,
				Multiplier: 2,
				Jitter:     0.2,
				MaxDelay:   maxBackoff,
			},
			MinConnectTimeout: handshakeTimeout,
		}),
		grpc.WithReadBufferSize(bufferSize),
		grpc.WithWriteBufferSize(bufferSize),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithMaxHeaderListSize(maxHeaderList),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(MaxMessage),
			grpc.MaxCallSendMsgSize(MaxMessage),
		),
	}
	cc, err := grpc.NewClient(target, append(opts, extra...)...)
	if err != nil {
		return nil, fmt.Errorf("make gRPC client: %w", err)
	}
	return cc, nil
}
