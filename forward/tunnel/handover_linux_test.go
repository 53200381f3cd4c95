package tunnel

import (
	"crypto/tls"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A connection that is given away must not be ended by the kernel because its peer
// reads nothing for a while; one with a session must, or who is gone stays.
func TestHandOverTakesTheTunnelsTimeoutBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sc, cc := testTLS(t)
	dialled := result(func() error {
		c, err := tls.Dial("tcp", l.Addr().String(), cc)
		if err == nil {
			defer c.Close()
			_, _ = c.Read(make([]byte, 1))
		}
		return err
	})
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	car, err := HandshakeServer(background(t), raw, sc)
	if err != nil {
		t.Fatal(err)
	}
	timeout := func() (ms int) {
		control(raw, func(fd int) { ms, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) })
		if err != nil {
			t.Fatal(err)
		}
		return ms
	}
	if got := timeout(); got != int(userTimeout.Milliseconds()) {
		t.Errorf("timeout of a tunnel: %d ms", got)
	}
	given := car.HandOver()
	if got := timeout(); got != 0 {
		t.Errorf("timeout after it was given away: %d ms", got)
	}
	_ = given.Close()
	if err := await(t, "dial", dialled); err != nil {
		t.Error(err)
	}
	if Plain(raw).HandOver() != nil {
		t.Error("TLS where there is none")
	}
}
