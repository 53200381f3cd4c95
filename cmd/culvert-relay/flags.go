package main

import (
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/culvert-k8s/culvert/cmd/internal/boot"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	listen, health      string
	debug               string
	stateDir            string
	advertise           boot.List
	tlsCert, tlsKey     string
	agentCA, clientCA   string
	kube                kubeFlags
	policy              string
	peers               peerFlags
	limits              boot.List
	drain               time.Duration
	auditLog            string
	auditRequired       bool
	logFormat, logLevel string
}

// kubeFlags are those about a cluster.
type kubeFlags struct {
	callers          bool
	server, serverCA string
	tokenFile        string
	viaAgents        bool
	agentAccount     string
	agentAudience    string
	agentReviews     int
	impersonate      bool
	clientCA         string
	headerCA         string
	headerNames      boot.List
	kubectlErrors    string
	allowHostNetwork bool
	tlsSecret        string
	caConfigMaps     boot.List
}

func (f *serveFlags) register(fl *flag.FlagSet) {
	fl.StringVar(&f.listen, "listen", ":7443", "address for agents and clients, and for kubectl with --kube")
	fl.StringVar(&f.health, "health-listen", "127.0.0.1:7480", "address of /healthz, /readyz and /metrics; empty for none")
	fl.StringVar(&f.debug, "debug-listen", "", "loopback address of the profiles under /debug/pprof/, as 127.0.0.1:6060; empty for none")
	fl.StringVar(&f.stateDir, "state-dir", "", "`directory` of the relay's own authority, tokens and node names; made if needed")
	fl.Var(&f.advertise, "advertise", "`host[:port]` that agents and clients dial, for the relay's own certificate; may be repeated")
	fl.StringVar(&f.tlsCert, "tls-cert", "", "`file` with the certificate of the relay (PEM), instead of one of its own authority")
	fl.StringVar(&f.tlsKey, "tls-key", "", "`file` with the key of --tls-cert (PEM)")
	fl.StringVar(&f.agentCA, "agent-ca", "", "`file` with the authorities of node certificates (PEM), instead of the relay's own; O=culvert:nodes, CN=node name")
	fl.StringVar(&f.clientCA, "client-ca", "", "`file` with the authorities of client certificates (PEM), without a cluster; CN=user, O=groups; they may reach every pod")
	f.kube.register(fl)
	fl.StringVar(&f.policy, "policy", "", "`file` with rules that narrow what callers may reach (YAML, docs/policy.md); followed while it changes")
	f.peers.register(fl)
	fl.Var(&f.limits, "limit", "`NAME=N` of what one user, one node or all may have; N may be off; may be repeated; names and defaults: docs/operations.md")
	fl.DurationVar(&f.drain, "drain-timeout", 30*time.Second, "how long running streams may go on after SIGTERM")
	fl.StringVar(&f.auditLog, "audit-log", "", "`file` that gets a line of JSON for each stream and each refusal, opened again when it is moved away and on SIGHUP; - for standard output; empty for none")
	fl.BoolVar(&f.auditRequired, "audit-required", false, "refuse new streams while --audit-log cannot be written, instead of leaving lines out")
	fl.StringVar(&f.logFormat, "log-format", "text", "text or json")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
}

const (
	defaultAudience = "culvert-relay"
	defaultReviews  = 200
	forgiving       = "forgiving"
	strict          = "strict"
)

func (f *kubeFlags) register(fl *flag.FlagSet) {
	fl.BoolVar(&f.callers, "kube", false, "callers are those of a cluster, with the rights they have there; kubectl can use the relay as its server")
	fl.StringVar(&f.server, "kube-apiserver", "", "`URL` of the API server; default the one of the cluster this runs in")
	fl.StringVar(&f.serverCA, "kube-apiserver-ca", "", "`file` with the authorities of the API server's certificate (PEM); default the cluster's, else the system's")
	fl.StringVar(&f.tokenFile, "kube-token-file", "", "`file` with the relay's own token, for agents' tokens, certificates in a Secret, and impersonation; default the pod's")
	fl.BoolVar(&f.viaAgents, "kube-via-agents", false, "reach the API server through an agent that has --allow-apiserver")
	fl.StringVar(&f.agentAccount, "agent-service-account", "", "`NAMESPACE/NAME` that agents run as: their tokens are asked about at the API server")
	fl.StringVar(&f.agentAudience, "agent-audience", defaultAudience, "audience of the agents' tokens")
	fl.IntVar(&f.agentReviews, "agent-review-rate", defaultReviews, "how many new tokens of agents the API server is asked about in a second, and twice as many at once")
	fl.BoolVar(&f.impersonate, "impersonate", false, "act for callers who prove who they are to the relay, by certificate or through a front proxy")
	fl.StringVar(&f.clientCA, "kube-client-ca", "", "`file` with the authorities of the cluster's client certificates (PEM); needs --impersonate")
	fl.StringVar(&f.headerCA, "requestheader-client-ca", "", "`file` with the authorities of front proxies (PEM), which name callers in X-Remote-User; needs --impersonate")
	fl.Var(&f.headerNames, "requestheader-allowed-names", "common `names` of front proxies; may be repeated")
	fl.StringVar(&f.kubectlErrors, "kubectl-errors", forgiving, "what kubectl hears when one connection fails: forgiving ends that connection, strict ends kubectl as kube-apiserver does")
	fl.BoolVar(&f.allowHostNetwork, "allow-host-network", false, "callers may forward into pods on their node's own network, where localhost is the node's")
	fl.StringVar(&f.tlsSecret, "tls-secret", "", "`NAMESPACE/NAME` of a Secret for the relay's own authority and certificate, shared by all replicas; must exist, may be empty")
	fl.Var(&f.caConfigMaps, "ca-configmap", "`NAMESPACE/NAME` of a ConfigMap that gets the authority of --tls-secret as ca.crt; must exist; may be repeated")
}

// rule is a combination of flags that does not work, and what to do about it.
type rule struct {
	broken bool
	text   string
}

func firstBroken(rules ...[]rule) error {
	for _, some := range rules {
		for _, r := range some {
			if r.broken {
				return errors.New(r.text)
			}
		}
	}
	return nil
}

// check refuses combinations that would not do what they seem to.
func (f *serveFlags) check() error {
	if err := boot.CheckDebug(f.debug); err != nil {
		return fmt.Errorf("--debug-listen: %w", err)
	}
	return firstBroken(f.agentRules(), f.certificateRules(), f.callerRules(), f.peers.rules(), f.kube.rules(f.stateDir != "" || f.agentCA != ""))
}

func (f *serveFlags) agentRules() []rule {
	return []rule{
		{f.drain < 0, "--drain-timeout is negative"},
		{f.auditRequired && f.auditLog == "", "--audit-required is about --audit-log: give that too"},
		{
			f.stateDir == "" && f.agentCA == "" && f.kube.agentAccount == "",
			"agents could not prove who they are: give --agent-service-account in a cluster, --state-dir for an authority of the relay's own, or --agent-ca",
		},
	}
}

func (f *serveFlags) certificateRules() []rule {
	own := f.stateDir != "" || f.kube.tlsSecret != ""
	return []rule{
		{(f.tlsCert == "") != (f.tlsKey == ""), "--tls-cert and --tls-key belong together"},
		{!own && f.tlsCert == "", "the relay has no certificate: give --tls-secret in a cluster, --state-dir, or --tls-cert and --tls-key"},
		{!own && len(f.advertise) > 0, "--advertise is for the certificate of the relay's own authority, which needs --state-dir or --tls-secret"},
		{f.kube.tlsSecret != "" && f.tlsCert != "", "--tls-secret and --tls-cert are two certificates: give one of them"},
		{f.kube.tlsSecret != "" && f.stateDir != "", "--tls-secret and --state-dir are two authorities of the relay's own: give one of them"},
		{f.kube.tlsSecret != "" && len(f.advertise) == 0, "--tls-secret needs --advertise, the names under which the relay is dialled, such as culvert-relay.culvert-system.svc"},
		{f.kube.tlsSecret == "" && len(f.kube.caConfigMaps) > 0, "--ca-configmap publishes the authority of --tls-secret: give that too"},
	}
}

func (f *serveFlags) callerRules() []rule {
	return []rule{
		{
			f.stateDir == "" && f.clientCA == "" && !f.kube.callers,
			"clients could not prove who they are: give --kube for the callers of a cluster, --state-dir for a client token, or --client-ca",
		},
		{
			f.kube.callers && f.clientCA != "",
			"--client-ca does not go with --kube, where the cluster decides what a caller may: for client certificates that the cluster knows, give --kube-client-ca and --impersonate",
		},
	}
}

// rules checks the flags about a cluster. independent tells whether agents can
// come without the API server.
func (f *kubeFlags) rules(independent bool) []rule {
	asks := f.callers || f.agentAccount != "" || f.tlsSecret != ""
	where := f.server != "" || f.serverCA != "" || f.tokenFile != "" || f.viaAgents
	return []rule{
		{!asks && where, "--kube-apiserver, --kube-apiserver-ca, --kube-token-file and --kube-via-agents say how to reach the API server: give --kube, or --agent-service-account, too"},
		{f.agentAccount == "" && f.agentAudience != defaultAudience, "--agent-audience is for agents with tokens: give --agent-service-account too"},
		{f.agentReviews < 1, "--agent-review-rate is below 1: agents could not come in"},
		{f.agentAccount == "" && f.agentReviews != defaultReviews, "--agent-review-rate is about agents with tokens: give --agent-service-account too"},
		{f.agentAudience == "", "--agent-audience is empty: name the audience in the agents' projected volume"},
		{
			f.viaAgents && !independent,
			"--kube-via-agents needs agents that can prove who they are without the API server: give --state-dir or --agent-ca",
		},
		{f.viaAgents && f.tlsSecret != "", "--tls-secret cannot be reached with --kube-via-agents, since no agent comes before the relay has a certificate: give --state-dir, or --tls-cert and --tls-key"},
		{
			!f.callers && (f.impersonate || f.clientCA != "" || f.headerCA != "" || len(f.headerNames) > 0 || f.kubectlErrors != forgiving || f.allowHostNetwork),
			"--impersonate, --kube-client-ca, --requestheader-client-ca, --requestheader-allowed-names, --kubectl-errors and --allow-host-network are about the callers of a cluster: give --kube too",
		},
		{f.kubectlErrors != forgiving && f.kubectlErrors != strict, "--kubectl-errors is neither forgiving nor strict"},
		{
			!f.impersonate && (f.clientCA != "" || f.headerCA != ""),
			"callers known by --kube-client-ca or --requestheader-client-ca can only be spoken for: allow it with --impersonate",
		},
		{f.impersonate && f.clientCA == "" && f.headerCA == "", "--impersonate is for callers who prove who they are to the relay: give --kube-client-ca or --requestheader-client-ca"},
		{
			(f.headerCA == "") != (len(f.headerNames) == 0),
			"--requestheader-client-ca and --requestheader-allowed-names belong together: who may name callers must be named",
		},
	}
}
