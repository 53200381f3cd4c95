package agent

import (
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// TestAnswerWaitsOnlyForWhoWasAsked has a pod that says nothing: the answer waits a
// moment for its first words if the client has spoken, and leaves at once if not.
func TestAnswerWaitsOnlyForWhoWasAsked(t *testing.T) {
	for _, tt := range []struct {
		name  string
		early string
	}{{"silent client", ""}, {"client that has spoken", "hello"}} {
		t.Run(tt.name, func(t *testing.T) {
			emptyPools() // yamux keeps timers in one, and none may cross into a bubble or out of it
			defer emptyPools()
			synctest.Test(t, func(t *testing.T) {
				took := answerTime(t, tt.early)
				if waited := took > 0; waited != (tt.early != "") {
					t.Errorf("the answer took %s", took)
				}
			})
		})
	}
}

func emptyPools() {
	runtime.GC()
	runtime.GC()
}

// answerTime is how long the answer of an agent takes whose pod has accepted, while
// nothing else takes any time.
func answerTime(t *testing.T, early string) time.Duration {
	near, far := net.Pipe()
	up, err := tunnel.NewSession(tunnel.Plain(near), true, tunnel.Config{})
	if err != nil {
		t.Fatal(err)
	}
	relay, err := tunnel.NewSession(tunnel.Plain(far), false, tunnel.Config{})
	if err != nil {
		t.Fatal(err)
	}
	asked := &stream.Open{Kind: stream.KindForward, ID: stream.NewID(), UID: "uid", Port: 80, Namespace: "default", Pod: "web"}
	client, err := connect.OpenWith(t.Context(), relay, asked, []byte(early))
	if err != nil {
		t.Fatal(err)
	}
	st, err := up.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open, err := stream.ReadOpen(st)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // what was under way is over
	u := &uplink{agent: &Agent{cfg: Config{OpenTimeout: time.Minute}}}
	began := time.Now()
	if err := u.accept(st, open); err != nil {
		t.Fatal(err)
	}
	if reply, err := stream.ReadReply(client); err != nil || reply.Code != stream.OK {
		t.Fatalf("%+v, %v", reply, err)
	}
	took := time.Since(began)
	_, _ = st.Reset(), client.Reset()
	_, _ = up.Close(), relay.Close()
	return took
}
