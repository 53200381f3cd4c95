package relay

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/culvert-k8s/culvert/forward/relay/audit"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// ledger is an audit log that can be read.
type ledger struct {
	*audit.Log
	lines
}

func newLedger(t testing.TB, cfg audit.Config) *ledger {
	t.Helper()
	l := &ledger{}
	if cfg.Out == nil {
		cfg.Out = &l.lines
	}
	var err error
	if l.Log, err = audit.Open(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// records waits until there are n lines and returns them as "event code who".
func (l *ledger) records(t testing.TB, n int) (short []string, all []map[string]any) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d records", n), func() bool {
		short, all = nil, nil
		l.mu.Lock()
		defer l.mu.Unlock()
		for line := range strings.Lines(l.buf.String()) {
			m := make(map[string]any)
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			who := m["user"]
			if who == nil {
				who = m["node"]
			}
			short, all = append(short, strings.TrimSpace(fmt.Sprint(m["event"], " ", orDash(m["code"]), " ", orDash(who)))), append(all, m)
		}
		return len(all) >= n
	})
	if len(all) != n {
		t.Errorf("%d records, want %d: %q", len(all), n, short)
	}
	return short, all
}

func orDash(v any) any {
	if v == nil {
		return "-"
	}
	return v
}

// A stream leaves a record when the pod accepts and one at its end, whichever door
// it came through.
func TestAuditOfStreams(t *testing.T) {
	book := newLedger(t, audit.Config{})
	r := newRig(t, Config{Audit: book.Log})
	node, tun := r.node("node-a")
	r.report(tun, "shop/web=uid-1")
	client := r.connect(Identity{Role: RoleUser, Name: "alice", Groups: []string{"dev", "ops"}}, tunnel.Config{})
	sibling(t, r.forward(client, node)) // 4 bytes each way
	short, all := book.records(t, 2)
	if short[0] != "stream-open - alice" || short[1] != "stream-end ok alice" {
		t.Errorf("%q", short)
	}
	for field, want := range map[string]any{
		"v": 1.0, "relay": r.s.ID(), "door": "culvert", "namespace": "shop", "pod": "web", "uid": "uid-1", "port": 80.0,
		"node": "node-a", "agent": "pipe", "from": "pipe", "groups": "[dev ops]", "bytes_up": 4.0, "bytes_down": 4.0,
	} {
		for i, m := range all {
			if got := m[field]; fmt.Sprint(got) != fmt.Sprint(want) && (i == 1 || !strings.HasPrefix(field, "bytes")) {
				t.Errorf("record %d: %s is %v, want %v", i, field, got, want)
			}
		}
	}
	if all[0]["stream"] != all[1]["stream"] || all[0]["stream"] == nil || all[1]["started"] == nil || all[1]["seconds"] == nil {
		t.Errorf("%v", all)
	}

	c := client.ask("shop", "nobody")
	_, _ = stream.ReadReply(c)
	_ = c.Close()
	c = client.ask("shop", "web")
	a, _ := node.accept()
	answer(t, a, stream.NotListening, "nothing there\nat all")
	_, _ = stream.ReadReply(c)
	_ = a.Close()
	_ = c.Close()
	book.records(t, 4)
	l, a := r.linked(node) // kubectl's door
	_ = l.Close()
	_ = a.Close()
	d := r.dial(within(t), Call{Who: bob.Who, From: bob.From, Target: Target{Namespace: "shop", Pod: "other", Port: 1}, Door: bob.Door})
	<-d.done
	short, all = book.records(t, 7)
	want := []string{
		"stream-refused pod-not-found alice", "stream-refused not-listening alice",
		"stream-open - bob", "stream-end canceled bob", "stream-refused pod-not-found bob",
	}
	if fmt.Sprint(short[2:]) != fmt.Sprint(want) {
		t.Errorf("%q, want %q", short[2:], want)
	}
	if all[3]["reason"] != "nothing there at all" || all[4]["door"] != "kubectl-test" || all[4]["from"] != "192.0.2.1:1" {
		t.Errorf("%v", all[3:5])
	}
}

// Who was not let in is written down, without what he showed.
func TestAuditOfStrangers(t *testing.T) {
	book := newLedger(t, audit.Config{})
	h := newHouse(t, Config{Audit: book.Log})
	for _, wrong := range []struct {
		alpn  string
		hello *stream.Hello
		certs []tls.Certificate
	}{
		{stream.ALPNClient, hello(stream.CredentialToken, "secret-of-a-client"), nil},
		{stream.ALPNAgent, hello(stream.CredentialJoin, "secret-of-a-node"), nil},
		{stream.ALPNAgent, nil, nil},
	} {
		if _, err := h.come(wrong.alpn, wrong.hello, wrong.certs...); err == nil {
			t.Fatal("let in")
		}
	}
	short, all := book.records(t, 3)
	if fmt.Sprint(short) != "[access-refused unauthenticated - access-refused unauthenticated - access-refused unauthenticated -]" {
		t.Errorf("%q", short)
	}
	if all[0]["door"] != "culvert" || all[1]["role"] != "node" || all[2]["role"] != "node" || all[0]["from"] == nil {
		t.Errorf("%v", all)
	}
	// TLS ends those with a certificate of another authority.
	if _, err := h.come(stream.ALPNAgent, nil, newAuthority(t).person("node-a", identity.OrgNodes)); err == nil {
		t.Fatal("let in")
	}
	if short, _ := book.records(t, 4); short[3] != "access-refused unauthenticated -" {
		t.Errorf("%q", short)
	}
	_ = h.raw().Close() // a port scan is none of that
	if err := book.Close(); err != nil {
		t.Error(err)
	}
	book.records(t, 4)
	if strings.Contains(book.buf.String(), "secret-of") {
		t.Errorf("a secret in\n%s", book.buf.String())
	}
}

// Who may not stay is written down too.
func TestAuditOfTheRevoked(t *testing.T) {
	book := newLedger(t, audit.Config{})
	r := newRig(t, Config{Audit: book.Log})
	node, tun := r.node("node-a")
	r.report(tun, "shop/web=uid-1")
	client := r.client()
	sibling(t, r.forward(client, node))
	book.records(t, 2)
	r.judge.set(func(Identity) error { return &stream.Error{Code: stream.Unauthenticated, Text: "it is over"} })
	if client.peer.valid(t.Context()) == nil {
		t.Error("still here")
	}
	if short, _ := book.records(t, 3); short[2] != "access-refused unauthenticated alice" {
		t.Errorf("%q", short)
	}
}

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A relay whose audit log is required opens nothing without it; any other does.
func TestAuditIsRequired(t *testing.T) {
	for _, required := range []bool{true, false} {
		t.Run(fmt.Sprint(required), func(t *testing.T) {
			failed := make(chan error, 1)
			book := newLedger(t, audit.Config{Out: full{}, Required: required, Report: func(err error) { failed <- err }})
			r := newRig(t, Config{Audit: book.Log})
			node, tun := r.node("node-a")
			r.report(tun, "shop/web=uid-1")
			client := r.client()
			runs := r.forward(client, node) // the first one is what fails
			if err := <-failed; !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			if !required {
				sibling(t, r.forward(client, node))
				sibling(t, runs)
				return
			}
			c := client.ask("shop", "web")
			if reply, err := stream.ReadReply(c); err != nil || reply.Code != stream.Overloaded || !strings.Contains(reply.Text, "audit log") {
				t.Errorf("reply %+v, %v", reply, err)
			}
			_ = c.Close()
			d := r.dial(within(t), bob)
			<-d.done
			if !errors.Is(d.err, errUnaudited) {
				t.Errorf("kubectl's door: %v", d.err)
			}
			sibling(t, runs) // what runs goes on
		})
	}
}
