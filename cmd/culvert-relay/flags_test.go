package main

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCombinations holds which flags go together, and that a refusal says what to
// do.
func TestCombinations(t *testing.T) {
	const (
		own    = "--tls-cert c --tls-key k "
		inside = "--agent-service-account culvert-agent/culvert-agent --tls-secret culvert-system/tls --advertise relay.test --kube "
	)
	for name, tc := range map[string]struct{ args, want string }{
		"standalone":                {"--state-dir s", ""},
		"standalone, advertised":    {"--state-dir s --advertise relay.test", ""},
		"own PKI":                   {own + "--agent-ca a --client-ca u", ""},
		"in a cluster":              {inside + "--ca-configmap a/b --ca-configmap c/d", ""},
		"in a cluster, cert file":   {own + "--agent-service-account a/b --kube --kubectl-errors strict --allow-host-network", ""},
		"agents of a cluster alone": {own + "--agent-service-account a/b --client-ca u", ""},
		"callers of a cluster":      {"--state-dir s --kube --kube-apiserver https://api.test", ""},
		"from outside":              {"--state-dir s --kube --kube-via-agents --kube-apiserver-ca c", ""},
		"from outside, own PKI":     {own + "--agent-ca a --kube --kube-via-agents --kube-apiserver-ca c", ""},
		"agents in a hurry":         {"--state-dir s --kube --agent-service-account a/b --agent-review-rate 500", ""},
		"both kinds of agents":      {"--state-dir s --kube --agent-service-account a/b", ""},
		"both, via agents":          {"--state-dir s --kube --agent-service-account a/b --kube-via-agents", ""},
		"client certificates":       {inside + "--impersonate --kube-client-ca u", ""},
		"front proxies":             {inside + "--impersonate --requestheader-client-ca u --requestheader-allowed-names a,b", ""},

		"peers from DNS":  {"--state-dir s --peers-from-dns relays.test", ""},
		"peers as a list": {"--state-dir s --peers 10.0.0.1:7443,[fd00::1]:7443", ""},

		"peers twice":                 {"--state-dir s --peers 10.0.0.1:7443 --peers-from-dns relays.test", "two answers"},
		"peers by name":               {"--state-dir s --peers relay.test:7443", "give --peers-from-dns"},
		"no reviews":                  {"--state-dir s --agent-service-account a/b --agent-review-rate 0", "could not come in"},
		"reviews of nobody":           {"--state-dir s --agent-review-rate 500", "give --agent-service-account too"},
		"nothing":                     {"", "give --agent-service-account in a cluster, --state-dir for an authority of the relay's own, or --agent-ca"},
		"no agents":                   {own + "--kube", "agents could not prove"},
		"no certificate":              {"--agent-service-account a/b --kube", "give --tls-secret in a cluster, --state-dir, or --tls-cert and --tls-key"},
		"no callers":                  {own + "--agent-service-account a/b", "give --kube for the callers of a cluster"},
		"two kinds of callers":        {inside + "--client-ca u", "give --kube-client-ca and --impersonate"},
		"half a pair":                 {"--state-dir s --tls-key k", "belong together"},
		"two certificates":            {inside + own, "two certificates"},
		"two authorities":             {inside + "--state-dir s", "two authorities"},
		"no names":                    {"--agent-service-account a/b --tls-secret a/b --kube", "--tls-secret needs --advertise"},
		"names for nothing":           {own + "--agent-ca a --client-ca u --advertise x", "--state-dir or --tls-secret"},
		"publish what":                {"--state-dir s --ca-configmap a/b", "--ca-configmap publishes"},
		"negative drain":              {"--state-dir s --drain-timeout -1s", "negative"},
		"API server for nothing":      {"--state-dir s --kube-apiserver https://api.test", "give --kube, or --agent-service-account, too"},
		"API server's CA for nothing": {"--state-dir s --kube-apiserver-ca c", "give --kube, or"},
		"token for nothing":           {"--state-dir s --kube-token-file c", "give --kube, or"},
		"via agents for nothing":      {"--state-dir s --kube-via-agents", "give --kube, or"},
		"audience for nobody":         {"--state-dir s --agent-audience x", "give --agent-service-account too"},
		"no audience":                 {inside + "--agent-audience=", "--agent-audience is empty"},
		"via agents that need it":     {own + "--agent-service-account a/b --kube --kube-via-agents", "give --state-dir or --agent-ca"},
		"via agents before any":       {"--agent-ca a --kube --kube-via-agents --tls-secret a/b --advertise x", "no agent comes before the relay has a certificate"},
		"impersonate without kube":    {"--state-dir s --impersonate", "give --kube too"},
		"client CA without kube":      {"--state-dir s --kube-client-ca u", "give --kube too"},
		"strict without kube":         {"--state-dir s --kubectl-errors strict", "give --kube too"},
		"host network without kube":   {"--state-dir s --allow-host-network", "give --kube too"},
		"kubectl errors":              {inside + "--kubectl-errors loud", "neither forgiving nor strict"},
		"client CA alone":             {inside + "--kube-client-ca u", "allow it with --impersonate"},
		"front proxies alone":         {inside + "--requestheader-client-ca u --requestheader-allowed-names a", "allow it with --impersonate"},
		"impersonate whom":            {inside + "--impersonate", "give --kube-client-ca or --requestheader-client-ca"},
		"any front proxy":             {inside + "--impersonate --requestheader-client-ca u", "belong together"},
		"front proxies of nobody":     {inside + "--impersonate --kube-client-ca u --requestheader-allowed-names a", "belong together"},
	} {
		t.Run(name, func(t *testing.T) {
			var f serveFlags
			fl := flag.NewFlagSet("serve", flag.ContinueOnError)
			fl.SetOutput(io.Discard)
			f.register(fl)
			if err := fl.Parse(strings.Fields(tc.args)); err != nil {
				t.Fatal(err)
			}
			err := f.check()
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

func TestAPIServer(t *testing.T) {
	pod := environment{apiHost: "10.96.0.1", apiPort: "443", accountDir: "/account"}
	for name, tc := range map[string]struct {
		flags kubeFlags
		env   environment
		want  apiServer
		err   string
	}{
		"in a pod":            {kubeFlags{agentAccount: "a/b"}, pod, apiServer{"https://10.96.0.1:443", "/account/ca.crt", "/account/token"}, ""},
		"IPv6, no port":       {kubeFlags{}, environment{apiHost: "fd00::1", accountDir: "/account"}, apiServer{"https://[fd00::1]:443", "/account/ca.crt", "/account/token"}, ""},
		"own files in a pod":  {kubeFlags{serverCA: "c", tokenFile: "t"}, pod, apiServer{"https://10.96.0.1:443", "c", "t"}, ""},
		"another server":      {kubeFlags{server: "https://api.test"}, pod, apiServer{url: "https://api.test"}, ""},
		"another, with files": {kubeFlags{server: "https://api.test", serverCA: "c", tokenFile: "t", agentAccount: "a/b"}, environment{}, apiServer{"https://api.test", "c", "t"}, ""},
		"via agents":          {kubeFlags{viaAgents: true, serverCA: "c"}, environment{}, apiServer{"https://kubernetes.default.svc", "c", ""}, ""},
		"via agents by name":  {kubeFlags{viaAgents: true, server: "https://api.test"}, environment{}, apiServer{url: "https://api.test"}, ""},
		"via agents in a pod": {kubeFlags{viaAgents: true}, pod, apiServer{"https://10.96.0.1:443", "/account/ca.crt", "/account/token"}, ""},

		"nowhere":                {kubeFlags{}, environment{}, apiServer{}, "give --kube-apiserver and --kube-apiserver-ca, or --kube-via-agents"},
		"via agents, trust whom": {kubeFlags{viaAgents: true}, environment{}, apiServer{}, "kube-root-ca.crt"},
		// The token of the pod goes to no other server.
		"another, agents":      {kubeFlags{server: "https://api.test", agentAccount: "a/b"}, pod, apiServer{}, "give --kube-token-file"},
		"another, impersonate": {kubeFlags{server: "https://api.test", impersonate: true}, pod, apiServer{}, "give --kube-token-file"},
		"another, Secret":      {kubeFlags{server: "https://api.test", tlsSecret: "a/b"}, pod, apiServer{}, "give --kube-token-file"},
	} {
		got, err := tc.flags.api(tc.env)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// What only shows when the relay is put together.
func TestKubernetesUsage(t *testing.T) {
	dir := t.TempDir()
	state, token := filepath.Join(dir, "state"), filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("token"), 0o600); err != nil {
		t.Fatal(err)
	}
	const api = "--kube-apiserver https://api.test --kube-token-file "
	for name, tc := range map[string]struct{ args, want string }{
		"not in a cluster":   {"--kube --state-dir " + state, "KUBERNETES_SERVICE_HOST"},
		"not a URL":          {"--kube --kube-apiserver http://api.test --state-dir " + state, "want https://"},
		"account":            {"--agent-service-account a --state-dir " + state + " " + api + token, "want NAMESPACE/NAME"},
		"secret":             {"--agent-service-account a/b --kube --tls-secret a --advertise x " + api + token, "--tls-secret: \"a\" is not of the form NAMESPACE/NAME"},
		"config map":         {"--agent-service-account a/b --kube --tls-secret a/b --ca-configmap c --advertise x " + api + token, "--ca-configmap: \"c\""},
		"name":               {"--agent-service-account a/b --kube --tls-secret a/b --advertise *.x " + api + token, "neither a host name"},
		"limit":              {"--limit user-streams --state-dir " + state, "want NAME=N; there are streams, user-streams"},
		"unknown limit":      {"--limit user-streems=4 --state-dir " + state, "there is no limit \"user-streems\""},
		"limit of nothing":   {"--limit user-streams=0 --state-dir " + state, "\"0\" is neither a number from 1 on nor off"},
		"policy missing":     {"--policy missing --limit user-streams=off,opens=7 --state-dir " + state, "read policy: stat missing"},
		"token file missing": {"--agent-service-account a/b --kube --tls-secret a/b --advertise x " + api + "missing", "missing"},
		"client CA missing":  {"--kube --impersonate --kube-client-ca missing --state-dir " + state + " " + api + token, "missing"},
		"proxy CA missing":   {"--kube --impersonate --requestheader-client-ca missing --requestheader-allowed-names a --state-dir " + state + " " + api + token, "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := call(t, strings.Fields(tc.args+" --listen 127.0.0.1:0 --health-listen=")...)
			if code != 1 || !strings.Contains(stderr, tc.want) {
				t.Errorf("exit code %d: %s", code, stderr)
			}
		})
	}
}
