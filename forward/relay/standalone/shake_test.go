package standalone

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"
)

// shake runs a handshake over loopback and returns what the server saw.
func shake(t *testing.T, client, server *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(20 * time.Second)
	a.SetDeadline(end)
	b.SetDeadline(end)
	var state tls.ConnectionState
	var serverErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		conn := tls.Server(b, server)
		if serverErr = conn.Handshake(); serverErr == nil {
			state = conn.ConnectionState()
			_, serverErr = conn.Write([]byte{1})
		}
	}()
	conn := tls.Client(a, client)
	clientErr := conn.Handshake()
	if clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 1))
	}
	a.Close()
	<-done
	return state, errors.Join(clientErr, serverErr)
}
