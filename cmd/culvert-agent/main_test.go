package main

import (
	"bytes"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/agent"
	"github.com/culvert-k8s/culvert/agent/broker"
	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/sandbox"
)

const pin = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// parsed reads flags as serve does, on a node of that name.
func parsed(args ...string) (*agentFlags, error) {
	return parseIn(environment{nodeName: "from-env"}, args...)
}

func parseIn(env environment, args ...string) (*agentFlags, error) {
	f := &agentFlags{env: env}
	return f, parse(f, "culvert-agent", args, io.Discard)
}

func TestFlags(t *testing.T) {
	good := []string{"--relay", "a:1,b:2", "--relay", "[::1]:3", "--relay-ca-pin", pin}
	f, err := parsed(good...)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a:1", "b:2", "[::1]:3"}; !reflect.DeepEqual([]string(f.relays), want) || f.node != "from-env" {
		t.Errorf("relays %q, node %q", f.relays, f.node)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "no relay"},
		{[]string{"--relay", "a"}, "not host:port"},
		{[]string{"--relay", ":1"}, "not host:port"},
		{[]string{"--relay", "a:"}, "not host:port"},
		{[]string{"--relay", "a:1"}, "either --relay-ca or --relay-ca-pin"},
		{append(good, "--relay-ca", "file"), "either --relay-ca or --relay-ca-pin"},
		{[]string{"--relay", "a:1", "--relay-ca-pin", "sha256:12"}, "--relay-ca-pin"},
		{append(good, "--tls-cert", "file"), "belong together"},
		{append(good, "--tls-cert", "c", "--tls-key", "k", "--join-token-file", "t"), "no use beside --tls-cert"},
		{append(good, "--tls-cert", "c", "--tls-key", "k", "--token-file", "t"), "no use beside --tls-cert"},
		{append(good, "--token-file", "t", "--join-token-file", "j"), "no use beside --token-file"},
		{append(good, "--token-file", "t", "--state-dir", "s"), "no use beside --token-file"},
		{append(good, "--allow-apiserver"), "give --apiserver"},
		{append(good, "--allow-apiserver", "--apiserver", "10.0.0.1"), "not host:port"},
		{append(good, "--source", "docker"), "docker"},
		{append(good, "--node", "Node_1"), "Node_1"},
		{append(good, "--drain-timeout", "-1s"), "negative"},
		{append(good, "--max-dials", "0"), "--max-dials"},
		{append(good, "--broker", "s", "--deny-ports", "22"), "--deny-ports has no use beside --broker: give it to the broker"},
		{append(good, "--broker", "s", "--allow-host-network"), "give it to the broker"},
	} {
		if _, err := parsed(tt.args...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %s", tt.args, err, tt.want)
		}
	}
}

// TestPodFlags takes from the environment of a pod what it must.
func TestPodFlags(t *testing.T) {
	args := []string{"--relay", "culvert-relay.culvert-system.svc:7443", "--relay-ca", "ca.crt", "--token-file", "token"}
	pod := environment{nodeName: "node-1", apiHost: "fd00::1", apiPort: "443"}
	f, err := parseIn(pod, args...)
	if err != nil || f.node != "node-1" || f.reachable() != "" {
		t.Errorf("node %q, API server %q, %v", f.node, f.reachable(), err)
	}
	if f, err = parseIn(pod, append(args, "--allow-apiserver")...); err != nil || f.reachable() != "[fd00::1]:443" {
		t.Errorf("API server %q, %v", f.reachable(), err)
	}
	if f, err = parseIn(pod, append(args, "--allow-apiserver", "--apiserver", "api.example:6443")...); err != nil || f.reachable() != "api.example:6443" {
		t.Errorf("API server %q, %v", f.reachable(), err)
	}
	if _, err := parseIn(environment{}, args...); err == nil || !strings.Contains(err.Error(), "spec.nodeName") {
		t.Errorf("without the node's name: %v", err)
	}
}

func TestPolicyFlags(t *testing.T) {
	f := &podFlags{allowPorts: "80,8000-8100", denyPorts: "22", allowNS: []string{"a"}, denyNS: []string{"b"}, allowHost: true}
	got, err := f.policy()
	want := reach.Policy{
		AllowNamespaces: []string{"a"}, DenyNamespaces: []string{"b"}, AllowHostNetwork: true,
		AllowPorts: []reach.PortRange{{From: 80, To: 80}, {From: 8000, To: 8100}}, DenyPorts: []reach.PortRange{{From: 22, To: 22}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for flag, f := range map[string]*podFlags{"--allow-ports": {allowPorts: ","}, "--deny-ports": {denyPorts: "x"}} {
		if _, err := f.policy(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func TestIdentityFlags(t *testing.T) {
	if id, ok := (&agentFlags{tlsCert: "c", tlsKey: "k"}).identity(nil).(*agent.Certificate); !ok || id.CertFile != "c" || id.KeyFile != "k" {
		t.Errorf("own certificate: %#v", id)
	}
	if id, ok := (&agentFlags{tokenFile: "t", relayCA: "ca"}).identity(nil).(*agent.Token); !ok || id.File != "t" || id.Trust.CAFile != "ca" {
		t.Errorf("token: %#v", id)
	}
	if id, ok := (&agentFlags{node: "n"}).identity(nil).(*agent.Joined); !ok || id.Node != "n" || id.Token != nil {
		t.Errorf("joined, without a token: %#v", id)
	}
	if id, ok := (&agentFlags{joinToken: "t"}).identity(nil).(*agent.Joined); !ok || id.Token == nil {
		t.Errorf("joined: %#v", id)
	}
}

// TestBrokerFlags takes pods from a broker, and every flag about pods that it has
// from nobody else.
func TestBrokerFlags(t *testing.T) {
	args := []string{"--relay", "a:1", "--relay-ca-pin", pin, "--broker", "/run/culvert/broker.sock"}
	f, err := parsed(args...)
	if err != nil {
		t.Fatal(err)
	}
	pods, err := f.pods(slog.New(slog.DiscardHandler))
	if _, ok := pods.(*broker.Client); !ok || err != nil {
		t.Errorf("pods: %T, %v", pods, err)
	}
	fl := flag.NewFlagSet("", flag.ContinueOnError)
	(&podFlags{}).register(fl)
	fl.VisitAll(func(one *flag.Flag) {
		if !slices.Contains(brokersOwn(), one.Name) && one.Name != "max-dials" {
			t.Errorf("an agent with a broker takes --%s, and does not obey it", one.Name)
		}
	})
}

// TestSource takes containerd if its socket is there, unless told otherwise.
func TestSource(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "containerd.sock")
	log := slog.New(slog.DiscardHandler)
	kind := func(source string) reflect.Type {
		return reflect.TypeOf((&podFlags{source: source, socket: socket}).podSource(log))
	}
	containerd, named := reflect.TypeFor[*sandbox.Containerd](), reflect.TypeFor[*sandbox.Named]()
	if got := kind(""); got != named {
		t.Errorf("without a socket: %v", got)
	}
	if got := kind("containerd"); got != containerd {
		t.Errorf("told containerd: %v", got)
	}
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := kind(""); got != containerd {
		t.Errorf("with a socket: %v", got)
	}
	if got := kind("named"); got != named {
		t.Errorf("told named: %v", got)
	}
}

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"version"}, 0, "culvert-agent ", ""},
		{[]string{"--help"}, 0, "", "-relay-ca-pin"},
		{[]string{"--no-such-flag"}, 1, "", "no-such-flag"},
		{[]string{"surprise"}, 1, "", "unexpected argument"},
		{[]string{"--relay", "a:1", "--relay-ca-pin", pin, "--log-level", "loud"}, 1, "", "loud"},
		{[]string{"--relay", "a:1", "--relay-ca-pin", pin, "--allow-ports", "x"}, 1, "", "--allow-ports"},
		{[]string{"broker", "--help"}, 0, "", "-socket"},
		{[]string{"broker", "surprise"}, 1, "", "unexpected argument"},
		{[]string{"broker", "--relay", "a:1"}, 1, "", "-relay"},
		{[]string{"broker", "--socket="}, 1, "", "--socket"},
		{[]string{"broker", "--uid=-1"}, 1, "", "--uid"},
		{[]string{"broker", "--drain-timeout=-1s"}, 1, "", "--drain-timeout"},
		{[]string{"broker", "--max-dials=0"}, 1, "", "--max-dials"},
		{[]string{"broker", "--deny-ports", "x"}, 1, "", "--deny-ports"},
		{[]string{"broker", "--log-level", "loud"}, 1, "", "loud"},
		{[]string{"broker", "--source", "named", "--socket", "/nowhere/broker.sock"}, 1, "", "/nowhere/broker.sock"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(tt.args, &stdout, &stderr)
		if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("%q: %d\n%s\n%s", tt.args, code, &stdout, &stderr)
		}
	}
}
