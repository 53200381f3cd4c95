package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// gateway connects a node that offers a way to the API server and answers each
// request for it with serve.
func (r *rig) gateway(name string, serve func(st *tunnel.Stream)) *link {
	r.t.Helper()
	quick := tunnel.Config{Linger: 100 * time.Millisecond}
	l := r.connect(Identity{Role: RoleNode, Name: name}, quick)
	l.peer.attends.Store(registered)
	r.s.nodes.add(newTunnelTo(l.near, &controlv1.Register{Node: name, Instance: "i", Capabilities: []string{"host-network", capabilityAPI}}))
	r.work.Go(func() {
		_ = l.far.Serve(r.ctx, func(st *tunnel.Stream) {
			o, err := stream.ReadOpen(st)
			if err != nil || o.Kind != stream.KindAPI || o.User != "" || o.UID != "" {
				r.t.Errorf("asked for %+v, %v", o, err)
			}
			serve(st)
		})
	})
	return l
}

func TestDialAPIFindsAWay(t *testing.T) {
	yes := func(st *tunnel.Stream) {
		_ = stream.WriteReply(st, &stream.Reply{Version: stream.Version})
		_, _ = io.Copy(st, st)
		_ = st.Close()
	}
	for name, tc := range map[string]struct {
		agents []func(*tunnel.Stream)
		code   stream.Code
		text   string
	}{
		"nobody": {nil, stream.AgentOffline, "--allow-apiserver"},
		"one":    {[]func(*tunnel.Stream){yes}, stream.OK, ""},
		"another": {[]func(*tunnel.Stream){
			func(st *tunnel.Stream) { refuse(st, stream.Unreachable) }, func(st *tunnel.Stream) { _ = st.Reset() },
			func(st *tunnel.Stream) { _ = st.Close() }, yes,
		}, stream.OK, ""},
		"none":  {[]func(*tunnel.Stream){func(st *tunnel.Stream) { refuse(st, stream.Policy) }}, stream.Policy, "node-a: not here"},
		"cut":   {[]func(*tunnel.Stream){func(st *tunnel.Stream) { _ = st.Close() }}, stream.Unreachable, "node-a"},
		"noise": {[]func(*tunnel.Stream){func(st *tunnel.Stream) { _, _ = st.Write(make([]byte, 6)); _ = st.Close() }}, stream.Malformed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			_, _ = r.node("bystander")
			var links []*link
			for i, serve := range tc.agents {
				links = append(links, r.gateway("node-"+string(rune('a'+i)), serve))
			}
			c, err := r.s.DialAPI(within(t))
			if stream.CodeOf(err) != tc.code || err != nil && !strings.Contains(err.Error(), tc.text) {
				t.Fatalf("%v, want %s", err, tc.code)
			}
			if err == nil {
				write(t, c, []byte("ping"))
				b := make([]byte, 4)
				if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" {
					t.Errorf("%q, %v", b, err)
				}
				_ = c.Close()
			}
			r.quiet(links...)
		})
	}
}

// A silent agent takes a part of the time, not all of it.
func TestDialAPIWaitsForNoAgentForLong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{OpenTimeout: 15 * time.Second})
		silent := r.gateway("node-a", func(st *tunnel.Stream) { _, _ = st.Read(make([]byte, 1)); _ = st.Close() })
		began := time.Now()
		if _, err := r.s.DialAPI(t.Context()); stream.CodeOf(err) != stream.Timeout {
			t.Errorf("%v", err)
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("it took %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.s.DialAPI(ctx); stream.CodeOf(err) != stream.Timeout {
			t.Errorf("%v", err)
		}
		r.quiet(silent)
		r.hangUp(silent)
	})
}

func TestWhichAgentsOfferTheAPIServer(t *testing.T) {
	ns := newNodes(10, time.Now())
	tun := func(node, instance string) *tunnelTo {
		o := newTunnelTo(nil, &controlv1.Register{Node: node, Instance: instance, Capabilities: []string{capabilityAPI}})
		ns.add(o)
		return o
	}
	old, leaving := tun("node-a", "1"), tun("node-b", "1")
	good := []*tunnelTo{tun("node-a", "2"), tun("node-c", "1"), tun("node-c", "1")}
	ns.leaving(leaving)
	seen := make(map[*tunnelTo]bool)
	for range 100 {
		ts := ns.offering(capabilityAPI)
		if len(ts) != 5 || !(ts[4] == old || ts[4] == leaving) || !(ts[3] == old || ts[3] == leaving) {
			t.Fatalf("%d tunnels", len(ts))
		}
		seen[ts[0]] = true
	}
	if len(seen) != len(good) || len(ns.offering("another")) != 0 {
		t.Errorf("%d of %d are used", len(seen), len(good))
	}
}

// What DialAPI returns is a net.Conn to the letter.
func TestAPIConn(t *testing.T) {
	r := newRig(t, Config{})
	far := make(chan *tunnel.Stream, 1)
	r.gateway("node-a", func(st *tunnel.Stream) {
		_ = stream.WriteReply(st, &stream.Reply{Version: stream.Version})
		far <- st
	})
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		if c1, err = r.s.DialAPI(within(t)); err != nil {
			return nil, nil, nil, err
		}
		c2 = <-far
		return c1, c2, func() { _, _ = c1.Close(), c2.Close() }, nil
	})
}

// A caller's upgraded connection through the relay and an agent to an API server:
// TLS twice, net/http three times, each of which interrupts a read with a deadline
// before it gives a connection away. One that was not taken back killed what followed.
func TestUpgradeThroughAnAgent(t *testing.T) {
	up := newWeb()
	ca := newAuthority(t)
	pair := ca.issue(&x509.Certificate{DNSNames: []string{"kubernetes"}})
	in := newInlet()
	api := &http.Server{Handler: up, ReadHeaderTimeout: patience, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}}

	r := newRig(t, Config{})
	r.gateway("node-a", func(st *tunnel.Stream) {
		_ = stream.WriteReply(st, &stream.Reply{Version: stream.Version})
		if !in.deliver(st) {
			_ = st.Reset()
		}
	})
	r.work.Go(func() { _ = api.ServeTLS(in, "", "") })
	t.Cleanup(func() { _ = api.Close() })

	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: ca.pool, ServerName: "kubernetes", MinVersion: tls.VersionTLS13},
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return r.s.DialAPI(ctx) },
	}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: "https", Host: "kubernetes"}) },
	}
	h := newHouse(t, Config{HTTP: func(*Server) http.Handler { return proxy }})

	for range 3 { // the second and third on connections that were used before
		if code, body := get(t, h.browser([]string{"http/1.1"}), "/who"); code != http.StatusOK || !strings.HasPrefix(body, "HTTP/1.1") {
			t.Fatalf("%d %q", code, body)
		}
	}
	for range 3 {
		c, br := h.upgraded()
		echoed(t, c, br)
		_ = c.CloseWrite()
		if _, err := br.ReadString('\n'); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v", err)
		}
		if err := <-up.cause; err == nil {
			t.Error("no end")
		}
		_ = c.Close()
	}
	c := h.secure("http/1.1") // the body of one that is under way when the connection is lost
	write(t, c, []byte("GET /hold HTTP/1.1\r\nHost: relay\r\n\r\n"))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	for _, tun := range r.s.nodes.offering(capabilityAPI) {
		_ = tun.sess.CloseWithError(errShutdown)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("an answer that was cut short looks whole")
	}
	_ = resp.Body.Close()
	<-up.cause
}
