package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// fixed is an Identity that answers with one error.
type fixed struct {
	err   error
	asked atomic.Int64
}

func (f *fixed) For(context.Context, string, func(Credential) *connect.Dialer) (Credential, error) {
	f.asked.Add(1)
	return Credential{}, f.err
}

func (f *fixed) renew(context.Context, controlv1.RegistryClient) (time.Time, error) {
	f.asked.Add(1)
	if f.err != nil {
		return time.Time{}, f.err
	}
	return time.Now().Add(60 * 24 * time.Hour), nil
}

// TestKeepBacksOff lets every attempt fail for ten minutes: few attempts, and
// fewer lines.
func TestKeepBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := &fixed{err: errors.New("relay is away")}
		log := &journal{}
		a, err := New(Config{Node: "n", Relays: []string{"r:1"}, Pods: local(nil), Identity: id, Log: log.logger()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		began := time.Now()
		a.newKeeper("r:1", "r:1").run(ctx, t.Context())
		if d := time.Since(began); d != 10*time.Minute {
			t.Errorf("kept for %v", d)
		}
		if n := id.asked.Load(); n < 120 || n > 260 {
			t.Errorf("%d attempts in 10 minutes", n)
		}
		lines := log.lines("no tunnel")
		if len(lines) != int(id.asked.Load()) || lines[0]["err"] != "relay is away" || lines[0]["relay"] != "r:1" {
			t.Errorf("%d lines for %d attempts", len(lines), id.asked.Load())
		}
		warned := 0
		for _, l := range lines {
			if l["level"] == "WARN" {
				warned++
			}
		}
		if warned < 9 || warned > 11 {
			t.Errorf("%d warnings in 10 minutes, want one a minute", warned)
		}
	})
}

// TestReplaced lets the relay say goodbye: another tunnel comes up while the
// stream on the old one runs on.
func TestReplaced(t *testing.T) {
	j := joinStream(t, itself, Config{})
	j.link.leave <- &controlv1.GoingAway{Reason: strings.Repeat("x", 1000)}
	second := j.relay.tunnel(t, 2)
	if second.sess == j.link.sess {
		t.Fatal("the same tunnel again")
	}
	if _, err := j.client.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 10)
	if _, err := io.ReadFull(j.pod, got); err != nil || string(got) != "still here" {
		t.Errorf("pod reads %q, %v", got, err)
	}
	if line := j.log.lines("relay is going away")[0]; len(line["reason"].(string)) != maxSaid {
		t.Errorf("%d bytes of the relay's reason in the log", len(line["reason"].(string)))
	}
	if a, b := j.link.reg, second.reg; a.GetInstance() == "" || a.GetInstance() != b.GetInstance() {
		t.Errorf("instances %q and %q", a.GetInstance(), b.GetInstance())
	}
	j.link.stop()
	j.log.wait(t, "tunnel ended", 1)
	if n, _, _ := j.relay.counts(); n != 2 {
		t.Errorf("%d tunnels after the end of the replaced one, want 2", n)
	}
}

// TestGoodbyeForEver lets a relay say goodbye on every tunnel and end none.
func TestGoodbyeForEver(t *testing.T) {
	r := startRelay(t, &relay{})
	start(t, Config{MaxBackoff: time.Millisecond}, r)
	for i := range maxTunnels {
		r.tunnel(t, i+1).leave <- &controlv1.GoingAway{}
	}
	// Only when one has ended may the next come.
	r.tunnel(t, 1).stop()
	r.tunnel(t, maxTunnels+1)
	if n, _, _ := r.counts(); n != maxTunnels+1 {
		t.Errorf("%d tunnels", n)
	}
}

// TestLost cuts the tunnel: it is back at once, and an agent that waits for a pod
// does not wait for that.
func TestLost(t *testing.T) {
	r := startRelay(t, &relay{})
	a := start(t, Config{Pods: local(dialHanging, pod1), OpenTimeout: time.Hour}, r)
	l := r.tunnel(t, 1)
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		if _, err := l.open(t, stream.Open{UID: pod1.UID, Port: 80}); err == nil {
			t.Error("opened")
		}
	}()
	eventually(t, "the stream is on its way", func() bool { return a.running.Load() == 1 })
	eventually(t, "the agent is ready", a.Ready)
	l.stop()
	r.tunnel(t, 2)
	<-opened
	if code := a.log.wait(t, "stream", 1)[0]["code"]; code != "tunnel-lost" {
		t.Errorf("code %v", code)
	}
}

// TestDrain lets a stream run while the agent leaves.
func TestDrain(t *testing.T) {
	j := joinStream(t, itself, Config{DrainTimeout: time.Hour})
	j.stop()
	j.relay.await(t, "it heard the goodbye", func() bool { return j.link.bye != nil })
	if j.Ready() {
		t.Error("ready while leaving")
	}
	if g := j.link.bye; g.GetReason() == "" || g.GetGrace().AsDuration() != time.Hour {
		t.Errorf("goodbye: %v", g)
	}
	_, err := j.link.open(t, stream.Open{UID: pod1.UID, Port: 80})
	if !errors.Is(err, &stream.Error{Code: stream.GoingAway}) {
		t.Errorf("a new stream: %v", err)
	}
	if _, err := j.client.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(j.pod, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	j.pod.CloseWrite()
	j.client.CloseWrite()
	if got, err := io.ReadAll(j.client); len(got) > 0 || err != nil {
		t.Errorf("client reads %q, %v", got, err)
	}
	if err := j.ended(t); err != nil {
		t.Error(err)
	}
	if lines := j.log.lines("streams are cut"); len(lines) > 0 {
		t.Errorf("log: %v", lines)
	}
}

// TestDrainTimer stops waiting for streams that never end.
func TestDrainTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := New(Config{Node: "n", Relays: []string{"r:1"}, Pods: local(nil), Identity: &fixed{}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		a.drain()
		if d := time.Since(began); d != 0 {
			t.Errorf("drained nothing for %v", d)
		}
		a.began()
		a.began()
		a.ended()
		a.drain()
		if d := time.Since(began); d != 30*time.Second {
			t.Errorf("gave up after %v", d)
		}
		time.AfterFunc(time.Second, a.ended)
		a.drain()
		if d := time.Since(began); d != 31*time.Second {
			t.Errorf("noticed the end after %v", d-30*time.Second)
		}
	})
}

// failing is a source of pods that gives up.
type failing struct{ *reachtest.Pods }

func (failing) Run(context.Context) error { return errors.New("no more pods") }

func TestPodsFail(t *testing.T) {
	r := startRelay(t, &relay{})
	a := start(t, Config{Pods: localOf(failing{reachtest.NewPods()}, nil)}, r)
	if err := a.ended(t); err == nil || !strings.Contains(err.Error(), "no more pods") {
		t.Errorf("Run: %v", err)
	}
}

// TestPodsNotReady tells the log, once for each state.
func TestPodsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, pods := &journal{}, reachtest.NewPods(pod1)
		a, err := New(Config{Node: "n", Relays: []string{"r:1"}, Pods: localOf(pods, nil), Identity: &fixed{}, Log: log.logger()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); a.watchPods(ctx) }()
		for _, ready := range []error{nil, errors.New("away"), nil} {
			pods.Edit(func() { pods.NotReady = ready })
			time.Sleep(time.Minute)
		}
		cancel()
		<-done
		if n, m := len(log.lines("pods may be out of date")), len(log.lines("pods are known again")); n != 1 || m != 1 {
			t.Errorf("log:\n%s", log)
		}
	})
}

// TestProxyFails stops before anything is dialled.
func TestProxyFails(t *testing.T) {
	r := startRelay(t, &relay{})
	a := start(t, Config{Proxy: func(*url.URL) (*url.URL, error) { return nil, errors.New("no such proxy") }}, r)
	if line := a.log.wait(t, "no tunnel", 1)[0]; !strings.Contains(fmt.Sprint(line["err"]), "no such proxy") {
		t.Errorf("log: %v", line)
	}
	var metrics strings.Builder
	a.WriteMetrics(&metrics)
	for _, want := range []string{"culvert_agent_relays 1", "culvert_agent_tunnels 0", "culvert_agent_pods 1", "culvert_agent_pods_ready 1", "culvert_agent_relay_dial_failures_total "} {
		if !strings.Contains(metrics.String(), want) {
			t.Errorf("metrics lack %s:\n%s", want, &metrics)
		}
	}
}

// TestNoRelay retries against nothing, and finds the relay when it comes.
func TestNoRelay(t *testing.T) {
	ca := newAuthority(t)
	l := reachtest.Listen(t)
	late := &relay{ca: ca, addr: l.Addr().String()}
	l.Close()
	a := start(t, Config{MaxBackoff: 20 * time.Millisecond}, late)
	if line := a.log.wait(t, "no tunnel", 2)[0]; !strings.Contains(fmt.Sprint(line["err"]), syscall.ECONNREFUSED.Error()) {
		t.Errorf("log: %v", line)
	}
	startRelay(t, late).tunnel(t, 1)
}
