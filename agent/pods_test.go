package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/broker"
	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	"github.com/culvert-k8s/culvert/agent/sandbox"
)

// local are pods that are reached from this process.
func local(dial reach.Dialer, pods ...sandbox.Pod) *reach.Local {
	return localOf(reachtest.NewPods(pods...), dial)
}

// localOf are those of a source; dial nil: nobody dials them.
func localOf(source reach.Source, dial reach.Dialer) *reach.Local {
	if dial == nil {
		dial = reachtest.DialTo("127.0.0.1:1")
	}
	return &reach.Local{Source: source, Dialer: dial}
}

// way is how an agent comes to pods.
type way func(t testing.TB, l *reach.Local) reach.Pods

// bothWays runs a test with pods that the agent's own process enters, and with those
// that a broker enters for it.
func bothWays(t *testing.T, run func(t *testing.T, to way)) {
	t.Run("itself", func(t *testing.T) { run(t, itself) })
	t.Run("broker", func(t *testing.T) { run(t, throughBroker) })
}

func itself(_ testing.TB, l *reach.Local) reach.Pods { return l }

// throughBroker starts a broker that ends with the test.
func throughBroker(t testing.TB, l *reach.Local) reach.Pods {
	t.Helper()
	s, err := broker.New(broker.Config{Pods: l, UID: os.Geteuid()})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "broker.sock")
	ln, err := broker.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return broker.NewClient(broker.ClientConfig{Socket: path})
}

// journal keeps what is logged, in JSON.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// lines returns the lines with this message.
func (j *journal) lines(msg string) []map[string]any {
	j.mu.Lock()
	text := slices.Clone(j.buf.Bytes())
	j.mu.Unlock()
	var out []map[string]any
	for line := range bytes.Lines(text) {
		var m map[string]any
		if json.Unmarshal(line, &m) == nil && m["msg"] == msg {
			out = append(out, m)
		}
	}
	return out
}

// wait waits for n lines with this message and returns them.
func (j *journal) wait(t testing.TB, msg string, n int) []map[string]any {
	t.Helper()
	var lines []map[string]any
	eventually(t, fmt.Sprintf("%d lines %q in the log", n, msg), func() bool {
		lines = j.lines(msg)
		return len(lines) >= n
	})
	return lines
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// eventually waits for what happens in its own time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not so: %s", what)
		}
	}
}

var pod1 = sandbox.Pod{Namespace: "shop", Name: "web-0", UID: "uid-1", NetNS: "/run/netns/secret"}

// running is an agent that runs until its test ends.
type running struct {
	*Agent
	log  *journal
	stop context.CancelFunc
	done chan struct{}
	err  error // once done is closed
}

// start runs an agent with what cfg lacks: a certificate that the first relay
// takes, pod1, and a log.
func start(t testing.TB, cfg Config, relays ...*relay) *running {
	t.Helper()
	r := &running{log: &journal{}, done: make(chan struct{})}
	cfg.Node, cfg.Log = "node-1", r.log.logger()
	for _, relay := range relays {
		cfg.Relays = append(cfg.Relays, relay.addr)
	}
	if cfg.Pods == nil {
		cfg.Pods = local(reachtest.DialTo("127.0.0.1:1"), pod1)
	}
	if cfg.Identity == nil {
		ca, cert, key := relays[0].ca.files(t, cfg.Node)
		cfg.Identity = &Certificate{Trust: Trust{CAFile: ca}, CertFile: cert, KeyFile: key}
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Agent = a
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() {
		defer close(r.done)
		r.err = a.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		select {
		case <-r.done:
		case <-time.After(limit + 40*time.Second):
			t.Error("the agent does not end")
		}
		if t.Failed() {
			t.Logf("log of the agent:\n%s", r.log)
		}
	})
	return r
}

// ended waits for the end of Run.
func (r *running) ended(t testing.TB) error {
	t.Helper()
	select {
	case <-r.done:
		return r.err
	case <-time.After(limit):
		t.Fatal("the agent does not end")
		return nil
	}
}
