package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/agent"
	"github.com/culvert-k8s/culvert/agent/broker"
	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/cmd/internal/boot"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

// defaultStateDir is where an agent that joins keeps its keys.
const defaultStateDir = "/var/lib/culvert-agent"

// environment is what the flags take from the environment.
type environment struct {
	nodeName         string // NODE_NAME
	apiHost, apiPort string // where a pod finds the API server
}

// agentFlags are the flags of the agent.
type agentFlags struct {
	env                  environment
	relays               boot.List
	node                 string
	stateDir             string
	joinToken, tokenFile string
	relayCA, relayPin    string
	tlsCert, tlsKey      string
	podFlags
	broker              string
	given               func(name string) bool
	allowAPI            bool
	apiServer           string
	health              string
	debug               string
	drain               time.Duration
	logFormat, logLevel string
}

func (f *agentFlags) register(fl *flag.FlagSet) {
	fl.Var(&f.relays, "relay", "`host:port` of a relay, may be repeated; a tunnel is kept to each, and to every address of a host that is a name")
	fl.StringVar(&f.node, "node", f.env.nodeName, "name of this node; default $NODE_NAME, else the host name")
	fl.StringVar(&f.stateDir, "state-dir", "", "`directory` of this agent's keys and certificates, if it joins; made if needed; default "+defaultStateDir)
	fl.StringVar(&f.joinToken, "join-token-file", "", "`file` with the relay's join token, needed until there is a certificate")
	fl.StringVar(&f.tokenFile, "token-file", "", "`file` with the agent's service account token, in a pod, instead of joining; read again when it is due")
	fl.StringVar(&f.relayCA, "relay-ca", "", "`file` with the authorities of the relays (PEM); waited for if it is missing or empty")
	fl.StringVar(&f.relayPin, "relay-ca-pin", "", "pin of the relays' authority, sha256:<hex>, instead of --relay-ca")
	fl.StringVar(&f.tlsCert, "tls-cert", "", "`file` with a node certificate of your own (PEM), instead of joining")
	fl.StringVar(&f.tlsKey, "tls-key", "", "`file` with the key of --tls-cert (PEM)")
	f.podFlags.register(fl)
	fl.StringVar(&f.broker, "broker", "", "`path` of the socket of a broker (culvert-agent broker), which then has the flags about pods and all power that this needs; empty: this process itself enters pods")
	f.given = func(name string) (given bool) {
		fl.Visit(func(f *flag.Flag) { given = given || f.Name == name })
		return given
	}
	fl.BoolVar(&f.allowAPI, "allow-apiserver", false, "let relays reach the cluster's API server through this agent, and nothing else outside of pods")
	fl.StringVar(&f.apiServer, "apiserver", f.env.apiServer(), "`host:port` of the API server, for --allow-apiserver; default that of the pod's cluster")
	fl.StringVar(&f.health, "health-listen", "127.0.0.1:7481", "address of /healthz, /readyz and /metrics; :7481 in a pod, so that the kubelet can ask; empty for none")
	fl.StringVar(&f.debug, "debug-listen", "", "loopback address of the profiles under /debug/pprof/, as 127.0.0.1:6061; empty for none")
	fl.DurationVar(&f.drain, "drain-timeout", 30*time.Second, "how long running streams may go on after SIGTERM; 0 ends them at once")
	fl.StringVar(&f.logFormat, "log-format", "text", "text or json")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
}

// apiServer returns the address that a pod is given for the API server, empty
// outside of pods.
func (e environment) apiServer() string {
	if e.apiHost == "" || e.apiPort == "" {
		return ""
	}
	return net.JoinHostPort(e.apiHost, e.apiPort)
}

func (f *agentFlags) check() error {
	if err := f.checkIdentity(); err != nil {
		return err
	}
	if err := boot.CheckDebug(f.debug); err != nil {
		return fmt.Errorf("--debug-listen: %w", err)
	}
	if f.node == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the name of this node: %w; give --node", err)
		}
		f.node = strings.ToLower(name) // as the kubelet does
	}
	for _, relay := range f.relays {
		if !isHostPort(relay) {
			return fmt.Errorf("--relay %q is not host:port", relay)
		}
	}
	if f.relayPin != "" {
		if _, err := identity.ParsePin(f.relayPin); err != nil {
			return fmt.Errorf("--relay-ca-pin: %w", err)
		}
	}
	switch {
	case len(f.relays) == 0:
		return errors.New("no relay: give --relay host:port")
	case (f.relayCA == "") == (f.relayPin == ""):
		return errors.New("give either --relay-ca or --relay-ca-pin, so that the relay can be told from an impostor")
	case f.allowAPI && f.apiServer == "":
		return errors.New("--allow-apiserver outside of a pod needs the API server's address: give --apiserver host:port")
	case f.allowAPI && !isHostPort(f.apiServer):
		return fmt.Errorf("--apiserver %q is not host:port", f.apiServer)
	case f.drain < 0:
		return fmt.Errorf("--drain-timeout %v is negative", f.drain)
	}
	if err := f.checkBroker(); err != nil {
		return err
	}
	if err := f.podFlags.check(); err != nil {
		return err
	}
	return identity.CheckNodeName(f.node)
}

// checkBroker wants no flag here that only the broker obeys.
func (f *agentFlags) checkBroker() error {
	if f.broker == "" {
		return nil
	}
	for _, name := range brokersOwn() {
		if f.given(name) {
			return fmt.Errorf("--%s has no use beside --broker: give it to the broker", name)
		}
	}
	return nil
}

// checkIdentity wants one way to prove who this agent is: a certificate of its
// own, a token, or else joining.
func (f *agentFlags) checkIdentity() error {
	if (f.tlsCert == "") != (f.tlsKey == "") {
		return errors.New("--tls-cert and --tls-key belong together")
	}
	way := ""
	switch {
	case f.tlsCert != "" && f.tokenFile != "":
		return errors.New("--token-file has no use beside --tls-cert: give one of them")
	case f.tlsCert != "":
		way = "--tls-cert"
	case f.tokenFile != "":
		way = "--token-file"
		if f.node == "" {
			// The host name of a pod is the pod's.
			return errors.New("--token-file needs the name of the node: set NODE_NAME from the pod's field spec.nodeName, or give --node")
		}
	}
	switch {
	case way != "" && f.joinToken != "":
		return fmt.Errorf("--join-token-file has no use beside %s: give one of them", way)
	case f.tokenFile != "" && f.stateDir != "":
		return errors.New("--state-dir has no use beside --token-file: leave it out")
	case f.stateDir == "":
		f.stateDir = defaultStateDir
	}
	return nil
}

func isHostPort(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	return err == nil && host != "" && port != ""
}

func (f *agentFlags) identity(report func(error)) agent.Identity {
	trust := agent.Trust{CAFile: f.relayCA, CAPin: f.relayPin}
	if f.tlsCert != "" {
		return &agent.Certificate{Trust: trust, CertFile: f.tlsCert, KeyFile: f.tlsKey, Report: report}
	}
	if f.tokenFile != "" {
		return &agent.Token{Trust: trust, File: f.tokenFile, Report: report}
	}
	j := &agent.Joined{Node: f.node, Store: &identity.AgentStore{Dir: f.stateDir}, Trust: trust, Report: report}
	if f.joinToken != "" {
		j.Token = func() (string, error) { return identity.LoadToken(f.joinToken) }
	}
	return j
}

// pods are reached through the broker, if there is one.
func (f *agentFlags) pods(log *slog.Logger) (reach.Pods, error) {
	if f.broker == "" {
		return f.local(log)
	}
	log.Info("pods", "broker", f.broker)
	return broker.NewClient(broker.ClientConfig{Socket: f.broker, MaxQuestions: f.maxDials}), nil
}

// reachable returns the address of the API server if relays may reach it.
func (f *agentFlags) reachable() string {
	if !f.allowAPI {
		return ""
	}
	return f.apiServer
}
