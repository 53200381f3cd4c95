package kubectl

import (
	"context"
	"testing"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/forwardtest"
)

// The pod's side of a connection keeps the contract of forward.Conn, and so does a
// client that does not have kubectl's faults.
func TestStreamConnConforms(t *testing.T) {
	mk := func() (a, b forward.Conn, stop func(), err error) {
		client, server := tcpPair(t)
		g := newGiven()
		p := newPod(func(context.Context, uint16) (Connection, error) { return g, nil })
		c, ended := session(t, Config{}, p, client, server)
		data, _, err := c.connect(80, 1)
		if err != nil {
			return nil, nil, nil, err
		}
		return <-g.conns, data, func() {
			close(g.done)
			c.close()
			<-ended
		}, nil
	}
	forwardtest.TestConn(t, mk)
	forwardtest.TestErrReset(t, mk)
}
