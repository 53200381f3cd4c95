package relay

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// until issues a certificate that ends then.
func (a *authority) until(end time.Time, name string, orgs ...string) tls.Certificate {
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name, Organization: orgs}, NotAfter: end,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// A certificate that ends in the middle of a session ends the session, with what
// runs on it, and a word why; others do not notice. It does not come in again, and
// the one that follows it does.
func TestCertificatesEndInMidSession(t *testing.T) {
	for _, who := range []string{"user", "node"} {
		t.Run(who, func(t *testing.T) {
			var ahead atomic.Int64 // of the relay's clock
			auth := credentials()
			auth.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			h := newHouse(t, Config{Auth: auth, RevalidateEvery: 10 * time.Millisecond})
			life := map[string]time.Time{"user": time.Now().Add(10 * time.Hour), "node": time.Now().Add(10 * time.Hour)}
			life[who] = time.Now().Add(time.Hour)

			asNode := func(end time.Time) (*link, error) {
				sess, err := h.come(stream.ALPNAgent, nil, h.until(end, "node-a", identity.OrgNodes))
				if err != nil {
					return nil, err
				}
				l := &link{t: t, far: sess}
				call, _, err := l.attend(&controlv1.Register{Node: "node-a", Instance: "i"})
				if err != nil {
					return nil, err
				}
				sendPods(t, call, report(true, "shop/web=uid-1"))
				eventually(t, "the pod is known", func() bool { return len(h.s.nodes.listPods("shop")) == 1 })
				return l, nil
			}
			asUser := func(end time.Time) (*link, error) {
				sess, err := h.come(stream.ALPNClient, nil, h.until(end, "bob"))
				return &link{t: t, far: sess}, err
			}
			node, err := asNode(life["node"])
			if err != nil {
				t.Fatal(err)
			}
			bob, err := asUser(life["user"])
			if err != nil {
				t.Fatal(err)
			}
			bystander := h.clientOf() // with a token
			p, beside := through(t, bob, node), through(t, bystander, node)
			sibling(t, through(t, bob, node))

			ahead.Store(int64(2 * time.Hour))
			ended, want := bob, "reset(unauthenticated)"
			if who == "node" {
				ended, want = node, "reset(unreachable)"
			}
			<-ended.far.Done()
			if got := rest(t, p.client); !strings.HasPrefix(got, want) {
				t.Errorf("the client sees %q", got)
			}
			if got := rest(t, p.agent); who == "user" && got != want {
				t.Errorf("the agent sees %q", got)
			}
			if who == "user" {
				sibling(t, beside)
				if _, err := asUser(life["user"]); stream.CodeOf(err) != stream.Unauthenticated || !strings.Contains(stream.TextOf(err), "ended at") {
					t.Errorf("the old certificate again: %v", err)
				}
				if bob, err = asUser(time.Now().Add(10 * time.Hour)); err != nil {
					t.Fatal(err)
				}
			} else {
				eventually(t, "the node is gone", func() bool { return h.s.nodes.len() == 0 })
				if _, err := asNode(life["node"]); stream.CodeOf(err) != stream.Unauthenticated || !strings.Contains(stream.TextOf(err), "ended at") {
					t.Errorf("the old certificate again: %v", err)
				}
				if node, err = asNode(time.Now().Add(10 * time.Hour)); err != nil {
					t.Fatal(err)
				}
			}
			sibling(t, through(t, bob, node))
			sibling(t, through(t, bystander, node))
		})
	}
}
