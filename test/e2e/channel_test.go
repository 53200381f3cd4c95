//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// endpoint is where a kubeconfig leads, and as whom.
type endpoint struct {
	server, token string
	roots         *x509.CertPool
}

// endpoint reads the current context of a kubeconfig.
func (r *rig) endpoint(ctx context.Context, kubeconfig string) (endpoint, error) {
	view := r.KubectlCommand(kubeconfig, "config", "view", "--raw", "--minify", "-o", "json")
	text, err := r.Client.RunCommand(ctx, view)
	if err != nil {
		return endpoint{}, err
	}
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct{ Token string } `json:"user"`
		} `json:"users"`
	}
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return endpoint{}, err
	}
	e := endpoint{server: config.Clusters[0].Cluster.Server, token: config.Users[0].User.Token, roots: x509.NewCertPool()}
	if !e.roots.AppendCertsFromPEM(config.Clusters[0].Cluster.CA) {
		return endpoint{}, errors.New("no authority in the kubeconfig")
	}
	return e, nil
}

// channels dials a pod as clients in JavaScript and Python do.
func (r *rig) channels(ctx context.Context, e endpoint, protocol, pod, query string) (*websocket.Conn, error) {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: e.roots, MinVersion: tls.VersionTLS13},
		DialContext:     func(ctx context.Context, _, address string) (net.Conn, error) { return r.Client.Dial(ctx, address) },
	}
	defer transport.CloseIdleConnections()
	//nolint:bodyclose // the library reads and closes it
	ws, resp, err := websocket.Dial(ctx, e.server+"/api/v1/namespaces/default/pods/"+pod+"/portforward?"+query, &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: transport},
		HTTPHeader:   http.Header{"Authorization": {"Bearer " + e.token}},
		Subprotocols: []string{protocol},
	})
	if err != nil && resp != nil {
		return nil, fmt.Errorf("%s: %w", resp.Status, err)
	}
	return ws, err
}

// channel speaks the protocol that Kubernetes' own tests speak: the port first on
// both channels, then data.
func (r *rig) channel(ctx context.Context, e endpoint, protocol, pod string, port uint16, send, want string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ws, err := r.channels(ctx, e, protocol, pod, fmt.Sprintf("ports=%d", port))
	if err != nil {
		return err
	}
	defer ws.CloseNow()
	if ws.Subprotocol() != protocol {
		return fmt.Errorf("the protocol is %q", ws.Subprotocol())
	}
	text := protocol == "v4.base64.channel.k8s.io"
	greeting := string(binary.LittleEndian.AppendUint16(nil, port))
	for number := range 2 {
		n, data, err := receive(ctx, ws, text)
		if err != nil {
			return err
		}
		if n != number || data != greeting {
			return fmt.Errorf("greeting %d: channel %d, %q", number, n, data)
		}
	}
	if err := transmit(ctx, ws, text, 0, send); err != nil {
		return err
	}
	var got strings.Builder
	for got.Len() < len(want) {
		n, data, err := receive(ctx, ws, text)
		if err != nil {
			return fmt.Errorf("after %q: %w", got.String(), err)
		}
		if n != 0 {
			return fmt.Errorf("after %q: %q on channel %d", got.String(), data, n)
		}
		got.WriteString(data)
	}
	if got.String() != want {
		return fmt.Errorf("got %q, want %q", got.String(), want)
	}
	return nil
}

// receive returns the next message that is not empty.
func receive(ctx context.Context, ws *websocket.Conn, text bool) (int, string, error) {
	for {
		_, message, err := ws.Read(ctx)
		if err != nil {
			return 0, "", err
		}
		if len(message) < 2 {
			continue
		}
		if !text {
			return int(message[0]), string(message[1:]), nil
		}
		data, err := base64.StdEncoding.DecodeString(string(message[1:]))
		return int(message[0] - '0'), string(data), err
	}
}

func transmit(ctx context.Context, ws *websocket.Conn, text bool, channel byte, data string) error {
	if text {
		return ws.Write(ctx, websocket.MessageText, append([]byte{'0' + channel}, base64.StdEncoding.EncodeToString([]byte(data))...))
	}
	return ws.Write(ctx, websocket.MessageBinary, append([]byte{channel}, data...))
}

// channelled compares both paths for clients that are not kubectl.
func channelled(t *testing.T, r *rig) *table {
	direct := r.developer(t)
	result := &table{title: "Clients that speak v4.channel.k8s.io", columns: []string{"kube-apiserver", "Culvert"}}
	var ends []endpoint
	for _, kubeconfig := range []string{direct, r.through(t, direct)} {
		e, err := r.endpoint(t.Context(), kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, e)
	}
	for _, tt := range []struct {
		name, protocol, pod, send, want string
		port                            uint16
	}{
		{"binary, 0.0.0.0", "v4.channel.k8s.io", "outer", "abc", strings.Repeat("x", 100), portWant},
		{"binary, localhost", "v4.channel.k8s.io", "inner", "abc", strings.Repeat("x", 100), portWant},
		{"base64", "v4.base64.channel.k8s.io", "inner", "to and fro", "to and fro", portEcho},
	} {
		r2 := row{name: tt.name}
		for i, e := range ends {
			began := time.Now()
			err := r.channel(t.Context(), e, tt.protocol, tt.pod, tt.port, tt.send, tt.want)
			t.Logf("%5.1f s  %s: %s: %v", time.Since(began).Seconds(), result.columns[i], tt.name, err)
			r2.cells = append(r2.cells, judge(t, result.columns[i]+": "+tt.name, works, err))
		}
		result.rows = append(result.rows, r2)
	}
	return result
}
