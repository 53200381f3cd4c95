//go:build linux

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// What one curl costs on the node's wire, port 10250, with kubectl port-forward
// through kube-apiserver, kubelet and containerd: measured on the stock path,
// with Kubernetes 1.36 on one machine (35 packets, about 30 of them with payload).
const (
	referencePackets = 35
	referencePayload = 30
)

// requests is how often each kind of request is made.
const requests = 200

// cost counts what requests cost on the node's wire and prints it beside the
// reference. The bound is the reference, so that the test does not depend on how
// busy the machine is; the numbers are for reading.
func cost(t *testing.T, f *fixture, pod *target) {
	fw := f.forward(t, pod.name, httpPort, echoPort)
	defer fw.end(t)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return f.Client.Dial(ctx, fw.local[httpPort])
		},
	}
	defer transport.CloseIdleConnections()
	fresh := transport.Clone()
	fresh.DisableKeepAlives = true
	echo, err := f.Client.Dial(t.Context(), fw.local[echoPort])
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()

	var table strings.Builder
	fmt.Fprintf(&table, "on the wire of the node, each way, average of %d:\n%-38s %8s %13s %8s\n",
		requests, "", "packets", "with payload", "bytes")
	fmt.Fprintf(&table, "%-38s %8d %13d %8s\n", "curl, stock path (reference)", referencePackets, referencePayload, "-")
	for _, kind := range []struct {
		name string
		once func() error
	}{
		{"curl: a connection per request", func() error { return get(t.Context(), fresh) }},
		{"request on a connection kept alive", func() error { return get(t.Context(), transport) }},
		{"one byte there and back", func() error { return pingPong(echo) }},
	} {
		sum, err := count(t, pod.node(), kind.once)
		if err != nil {
			t.Fatalf("%s: %v", kind.name, err)
		}
		packets, payload := float64(sum.Packets)/requests, float64(sum.WithPayload)/requests
		fmt.Fprintf(&table, "%-38s %8.1f %13.1f %8.0f\n", kind.name, packets, payload, float64(sum.WireBytes)/requests)
		if packets >= referencePackets || payload >= referencePayload {
			t.Errorf("%s: %.1f packets, %.1f with payload, not fewer than the reference", kind.name, packets, payload)
		}
	}
	t.Log(table.String())
}

// count captures the node's wire while once is done again and again. Control
// messages of the tunnel that fall into that time are counted too.
func count(t *testing.T, node *lab.Host, once func() error) (lab.FlowCount, error) {
	t.Helper()
	for range 5 { // what only the first ones need is not counted
		if err := once(); err != nil {
			return lab.FlowCount{}, err
		}
	}
	end := record(t, []tap{{nodeWire, node.Namespace, "eth0"}})
	for range requests {
		if err := once(); err != nil {
			return lab.FlowCount{}, err
		}
	}
	return lab.CountTCP(end()[nodeWire]), nil
}

// get makes one HTTP request.
func get(ctx context.Context, transport *http.Transport) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://pod/", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// pingPong sends one byte and waits for it to come back.
func pingPong(conn net.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}
