package kubectl

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// transports are the ways in that kubectl has.
var transports = []string{"spdy", "websocket"}

// forwarding is a running port-forward of the real kubectl code.
type forwarding struct {
	addr string // local
	port *portforward.PortForwarder
	out  *lockedBuffer

	stop chan struct{}
	once sync.Once
	done chan struct{}
	err  error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newForwarder makes what kubectl port-forward makes.
func newForwarder(f *forwarding, srv *httptest.Server, transport string, port uint16, ready chan struct{}) (*portforward.PortForwarder, error) {
	u, err := url.Parse(srv.URL + "/api/v1/namespaces/ns/pods/web/portforward")
	if err != nil {
		return nil, err
	}
	cfg := &rest.Config{Host: srv.URL}
	if strings.HasPrefix(srv.URL, "https") {
		cfg.Insecure = true
	}
	local, ports := []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}
	if transport == "websocket" {
		dialer, err := portforward.NewSPDYOverWebsocketDialer(u, cfg)
		if err != nil {
			return nil, err
		}
		return portforward.NewOnAddresses(dialer, local, ports, f.stop, ready, f.out, f.out)
	}
	rt, upgrader, err := spdy.RoundTripperFor(cfg)
	if err != nil {
		return nil, err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: rt}, http.MethodPost, u)
	return portforward.NewOnAddresses(dialer, local, ports, f.stop, ready, f.out, f.out)
}

// kubectl forwards a local port to a port of the pod behind srv, as kubectl does.
func kubectl(t testing.TB, srv *httptest.Server, transport string, port uint16) *forwarding {
	t.Helper()
	f := &forwarding{stop: make(chan struct{}), done: make(chan struct{}), out: new(lockedBuffer)}
	ready := make(chan struct{})
	var err error
	f.port, err = newForwarder(f, srv, transport, port, ready)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(f.done)
		f.err = f.port.ForwardPorts()
	}()
	select {
	case <-ready:
	case <-f.done:
		t.Fatalf("kubectl: %v", f.err)
	}
	ports, err := f.port.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	f.addr = fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
	t.Cleanup(f.end)
	return f
}

func (f *forwarding) end() {
	f.once.Do(func() { close(f.stop) })
	<-f.done
}

func (f *forwarding) dial(t testing.TB) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

// lost tells whether kubectl has given up.
func (f *forwarding) lost() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}
