package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/forward/client"
)

// relay finds the relays and reaches each of them. It returns nil if there is no
// way to any.
func (d *doctor) relay(ctx context.Context) *access {
	way, err := d.access(ctx, d.flags)
	if err != nil {
		d.fail("relay", err)
		return nil
	}
	from := "flags or environment"
	if way.cluster != nil && way.cluster.relay.From != "" {
		from = way.cluster.relay.From
	}
	reached := 0
	for _, r := range way.client.Relays {
		d.pass("relay", "%s, from %s", r.Addr, from)
		if d.reach(ctx, way, r) {
			reached++
		}
	}
	if reached == 0 {
		return nil
	}
	return way
}

// reach connects to a relay and looks at its certificate.
func (d *doctor) reach(ctx context.Context, way *access, r client.Relay) bool {
	if way.client.Proxy != nil {
		proxy, err := way.client.Proxy(&url.URL{Scheme: "https", Host: r.Addr})
		if err != nil {
			d.fail("relay-tcp", err)
			return false
		}
		if proxy != nil {
			d.skip("relay-tcp", "reached through proxy "+proxy.Redacted())
			d.skip("relay-tls", "as relay-tcp")
			return true
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout/3)
	defer cancel()
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "tcp", r.Addr)
	if err != nil {
		d.fail("relay-tcp", err)
		return false
	}
	d.pass("relay-tcp", "connected to %s", raw.RemoteAddr())
	conn := tls.Client(raw, r.TLS)
	defer conn.Close()
	if err := conn.HandshakeContext(ctx); err != nil {
		d.fail("relay-tls", err)
		return false
	}
	d.certificate(conn.ConnectionState().PeerCertificates[0])
	return true
}

func (d *doctor) certificate(c *x509.Certificate) {
	names := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	left := time.Until(c.NotAfter)
	text := fmt.Sprintf("certificate for %s by %q, good for %s", strings.Join(names, ","),
		cmp.Or(c.Issuer.CommonName, c.Issuer.String()), duration(left))
	if left < expiresSoon && left < c.NotAfter.Sub(c.NotBefore)/4 {
		d.warn("relay-tls", "the relay has not renewed it; ask whoever runs it", "%s", text)
		return
	}
	d.pass("relay-tls", "%s", text)
}

// session shows the relay the credential. The caller closes what it returns.
func (d *doctor) session(ctx context.Context, way *access) *client.Client {
	c := client.New(way.client)
	if err := c.Connect(ctx); err != nil {
		d.fail("relay-session", err)
		_ = c.Close() // it has no session
		return nil
	}
	about, err := c.About(ctx)
	if err != nil {
		d.fail("relay-session", err)
		return c
	}
	d.pass("relay-session", "protocol %d, relay %s takes the caller for %s", about.GetProtocolVersion(), about.GetRelayId(), about.GetUser())
	d.skew("relay-version", "relay", about.GetVersion())
	return c
}

// skew compares a version with that of this program.
func (d *doctor) skew(check, who, version string) {
	mine := d.build.Version
	if a, b := minor(mine), minor(version); a != "" && b != "" && a != b {
		d.warn(check, "use the same minor version on all sides", "%s %s, client %s", who, version, mine)
		return
	}
	d.pass(check, "%s %s, client %s", who, cmp.Or(version, "<unknown>"), cmp.Or(mine, "<unknown>"))
}

// minor returns vMAJOR.MINOR of a released version, empty for others.
func minor(version string) string {
	major, rest, ok := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	if !ok || major == "" || !strings.HasPrefix(version, "v") || strings.Contains(version, "-") {
		return ""
	}
	m, _, _ := strings.Cut(rest, ".")
	return major + "." + m
}

// way goes from the relay to the pod.
func (d *doctor) way(ctx context.Context, way *access, c *client.Client, what *request) {
	if way == nil || c == nil {
		d.skip("pod", "there is no session to a relay")
		return
	}
	dest, err := d.destinationOver(ctx, way, *what)
	if err != nil {
		d.fail("pod", err)
		return
	}
	t := dest.target()
	if t.Pod == "" {
		_, err := dest.(*followed).follower.Await(canceled(ctx))
		d.fail("pod", &hintError{err, "see: kubectl get pods -n " + t.Namespace})
		return
	}
	if f, ok := dest.(*followed); ok {
		p, _ := f.follower.Current()
		if !p.Ready {
			d.warn("pod", "see: kubectl describe pod "+p.Name, "%s on node %s is not ready", p.Name, p.Node)
		} else {
			d.pass("pod", "%s on node %s", p.Name, p.Node)
		}
	}
	if len(what.ports) > 0 {
		if t, err = dest.route(0).Next(ctx); err != nil {
			d.fail("port", err)
			return
		}
	}
	if d.check(ctx, c, t) && t.Port != 0 {
		d.port(ctx, c, t)
	}
}

// canceled is ctx without any time left.
func canceled(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

// check asks the relay how far a stream would get.
func (d *doctor) check(ctx context.Context, c *client.Client, t client.Target) bool {
	answer, err := c.Check(ctx, t)
	if client.Unasked(err) {
		d.skip("way", "the relay is older than the question")
		return true
	}
	if err != nil {
		d.fail("way", err)
		return false
	}
	ok := true
	for _, s := range answer.GetSteps() {
		name := "way-" + s.GetName()
		if err := stepError(s); err != nil {
			d.fail(name, &targetError{err, t})
			ok = false
			continue
		}
		d.pass(name, "%s", cmp.Or(s.GetDetail(), "yes"))
	}
	if v := answer.GetAgentVersion(); v != "" {
		d.skew("agent-version", "agent on "+answer.GetNode(), v)
	}
	return ok
}

// port makes a connection and drops it.
func (d *doctor) port(ctx context.Context, c *client.Client, t client.Target) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	began := time.Now()
	conn, err := c.Dial(ctx, t)
	if err != nil {
		d.fail("port", &targetError{err, t})
		return
	}
	_ = conn.Reset(nil) // nothing was said
	d.pass("port", "%s accepts connections, %v there and back", t, time.Since(began).Round(100*time.Microsecond))
}
