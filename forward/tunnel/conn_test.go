package tunnel

import (
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/forwardtest"
)

// conns makes a connected pair on a session of its own.
func conns(t *testing.T, tls bool) func() (a, b forward.Conn, stop func(), err error) {
	return func() (forward.Conn, forward.Conn, func(), error) {
		var client, server *Session
		if tls {
			client, server = tlsSessions(t, Config{Linger: 100 * time.Millisecond})
		} else {
			client, server = plainSessions(t, Config{Linger: 100 * time.Millisecond})
		}
		a, b := streams(t, client, server)
		return NewConn(a), NewConn(b), func() { client.Close(); server.Close() }, nil
	}
}

func TestConnIsAForwardConn(t *testing.T) {
	t.Run("tls", func(t *testing.T) { forwardtest.TestConn(t, conns(t, true)) })
	t.Run("plain", func(t *testing.T) { forwardtest.TestConn(t, conns(t, false)) })
}

func TestConnTellsAResetApart(t *testing.T) {
	t.Run("tls", func(t *testing.T) { forwardtest.TestErrReset(t, conns(t, true)) })
	t.Run("plain", func(t *testing.T) { forwardtest.TestErrReset(t, conns(t, false)) })
}
