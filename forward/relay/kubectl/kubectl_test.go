package kubectl

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// everyTransport runs f for both transports of kubectl, over TLS.
func everyTransport(t *testing.T, f func(t *testing.T, transport string)) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) { f(t, transport) })
	}
}

func TestKubectlEcho(t *testing.T) {
	everyTransport(t, func(t *testing.T, transport string) {
		p := newPod(nil)
		f := kubectl(t, serve(t, Config{}, p, true), transport, listen(t, echo))
		want := make([]byte, 5<<20)
		_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
		c := f.dial(t)
		go func() {
			_, _ = c.Write(want)
			_ = c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d of %d bytes came back: %v", len(got), len(want), err)
		}
		f.end()
		if f.err != nil {
			t.Errorf("kubectl ended with %v", f.err)
		}
		if door := map[string]string{"spdy": DoorSPDY, "websocket": DoorWebSocket}[transport]; p.doors[door] != 1 {
			t.Errorf("doors %v", p.doors)
		}
	})
}

func TestKubectlRefusedPortLeavesTheSessionAlone(t *testing.T) {
	everyTransport(t, func(t *testing.T, transport string) {
		port := listen(t, echo)
		dead := listen(t, echo)
		p := newPod(nil)
		refuse := true
		real := newPod(nil)
		p.dial = nil
		_ = dead
		_ = real
		_ = refuse
		srv := serve(t, Config{}, p, true)
		f := kubectl(t, srv, transport, port)
		ping(t, f.dial(t))
	})
}

func ping(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "ping" {
		t.Fatalf("read %q, %v", got, err)
	}
}

var errOnPurpose = errors.New("on purpose")
