package deploy_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/culvert-k8s/culvert/deploy/manifest"
)

// values reads YAML.
func values(t *testing.T, text string) map[string]any {
	t.Helper()
	v, err := manifest.ReadValues([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestRefusals are values that do not go together, or are none, and what the
// user is told.
func TestRefusals(t *testing.T) {
	chart := load(t)
	for _, tt := range []struct{ name, values, want string }{
		{"nothing", "{relay: {enabled: false}, agent: {enabled: false}}", "nothing to install"},
		{"no relay", "{relay: {enabled: false}}", "agents without a relay: set agent.relays"},
		{"one namespace", "{agent: {namespace: culvert-system}}", "give the agents a namespace of their own"},
		{"kube-system", "{agent: {namespace: kube-system}}", "namespaces.create=false"},
		{"secret without a name", "{tls: {mode: existingSecret, caCert: '-----BEGIN CERTIFICATE-----'}}", "needs tls.existingSecret"},
		{"secret without its mode", "{tls: {existingSecret: x}}", "set tls.mode=existingSecret"},
		{"no issuer", "{tls: {mode: certManager, caConfigMap: {name: x}}}", "needs tls.certManager.issuerRef.name"},
		{"no authority", "{tls: {mode: existingSecret, existingSecret: x}}", "set tls.caCert (PEM), or tls.caConfigMap.name"},
		{"no authority of a relay elsewhere", "{agent: {relays: ['a:1']}}", "set tls.caCert (PEM), or tls.caConfigMap.name"},
		{"two authorities", "{tls: {mode: existingSecret, existingSecret: x, caCert: '-----BEGIN CERTIFICATE-----', caConfigMap: {name: x}}}", "not both"},
		{"authority of whom", "{tls: {caConfigMap: {name: x}}}", "the relay publishes its own authority"},
		{"not PEM", "{tls: {mode: existingSecret, existingSecret: x, caCert: ca.crt}}", "/tls/caCert"},
		{"impersonation of nobody", "{relay: {impersonation: {enabled: true}}}", "whom should the relay believe?"},
		{"impersonation not enabled", "{relay: {impersonation: {clientCA: {configMap: x}}}}", "need relay.impersonation.enabled=true"},
		{"any front proxy", "{relay: {impersonation: {enabled: true, requestHeader: {configMap: x}}}}", "needs allowedNames"},
		{"two policies", "{relay: {policy: {configMap: x, rules: [{action: deny}]}}}", "not both"},
		{"dry run of nothing", "{relay: {policy: {dryRun: true}}}", "relay.policy.dryRun is for relay.policy.rules"},
		{"rule without an action", "{relay: {policy: {rules: [{name: a}]}}}", "/relay/policy/rules/0"},
		{"rule for nobody", "{relay: {policy: {rules: [{action: deny, users: []}]}}}", "/relay/policy/rules/0/users"},
		{"unknown limit", "{relay: {limits: {user-streems: 1}}}", "user-streems"},
		{"limit of nothing", "{relay: {limits: {user-streams: 0}}}", "/relay/limits/user-streams"},
		{"join whom", "{agent: {join: {existingSecret: x}}}", "agent.join is for relays elsewhere"},
		{"relay cut in its drain", "{relay: {terminationGracePeriodSeconds: 30}}", "preStopSeconds + drainSeconds (305)"},
		{"agent cut in its drain", "{agent: {terminationGracePeriodSeconds: 30}}", "less than drainSeconds (60)"},
		{"socket in /run", "{agent: {containerdSocket: /run/containerd.sock}}", "/run would be mounted from every node"},
		{"socket in /var/run", "{agent: {containerdSocket: /var/run/docker.sock}}", "/var/run would be mounted from every node"},
		{"all of /run", "{agent: {netnsDir: /run}}", "/run would be mounted from every node"},
		{"socket with a scheme", "{agent: {containerdSocket: 'unix:///run/containerd/containerd.sock'}}", "/agent/containerdSocket"},
		{"relay without a port", "{agent: {relays: [a]}}", "/agent/relays/0"},
		{"digest", "{relay: {image: {digest: latest}}}", "/relay/image/digest"},
		{"mode", "{tls: {mode: manual}}", "/tls/mode"},
		{"replicas", "{relay: {replicas: 0}}", "/relay/replicas"},
		{"a short token", "{agentAuth: {expirationSeconds: 60}}", "/agentAuth/expirationSeconds"},
		{"all capabilities", "{agent: {capabilities: [ALL]}}", "/agent/capabilities"},
		{"ports", "{agent: {policy: {allowPorts: '80;81'}}}", "/agent/policy/allowPorts"},
		{"pods on the node's network", "{agent: {policy: {allowHostNetwork: true}}}", "their own localhost and not the node's"},
		{"the same by a flag", "{agent: {broker: {extraArgs: [--allow-host-network]}}}", "their own localhost and not the node's"},
		{"number for a text", "{relay: {externalAddress: 7}}", "/relay/externalAddress"},
		{"address with a scheme", "{relay: {externalAddress: 'https://relay.example.com'}}", "/relay/externalAddress"},
		{"host network of agents is no value", "{agent: {hostNetwork: true}}", "hostNetwork"},
		{"unknown alert", "{prometheus: {rules: {enabled: true, disabled: [CulvertIsDown]}}}", "there is no alert CulvertIsDown"},
		{"privileged agents are no value", "{agent: {securityContext: {privileged: true}}}", "securityContext"},
	} {
		_, _, err := chart.Render(t.Context(), manifest.Release{Values: values(t, tt.values)})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v\nwant %s", tt.name, err, tt.want)
		}
	}
}

// free are the values whose inside is Kubernetes' own, or the user's.
func free() []string {
	return []string{
		"global", "commonLabels",
		"relay.service.annotations", "relay.serviceAccount.annotations", "relay.podAnnotations", "relay.podLabels",
		"relay.podSecurityContext", "relay.podSecurityContext.seccompProfile", "relay.securityContext", "relay.securityContext.capabilities",
		"relay.resources.requests", "relay.resources.limits", "relay.nodeSelector", "relay.affinity", "relay.dnsConfig",
		"agent.seLinuxOptions", "agent.appArmorProfile", "agent.seccompProfile", "agent.serviceAccount.annotations",
		"agent.broker.resources.requests", "agent.broker.resources.limits",
		"agent.podAnnotations", "agent.podLabels", "agent.resources.requests", "agent.resources.limits", "agent.nodeSelector",
		"agent.affinity", "agent.dnsConfig", "prometheus.serviceMonitor.labels", "prometheus.podMonitor.labels", "prometheus.rules.labels",
		"grafana.dashboard.labels", "grafana.dashboard.annotations",
	}
}

// TestNoUnknownValues adds a name that does not exist everywhere: what is
// misspelled must not be ignored.
func TestNoUnknownValues(t *testing.T) {
	chart := load(t)
	own, err := chart.Values()
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	var walk func(path []string, v map[string]any)
	walk = func(path []string, v map[string]any) {
		name := strings.Join(path, ".")
		var bad any = map[string]any{"misspelled": "x"}
		for _, key := range slices.Backward(path) {
			bad = map[string]any{key: bad}
		}
		_, _, err := chart.Render(t.Context(), manifest.Release{Values: bad.(map[string]any)})
		if known := slices.Contains(free(), name); known == (err != nil && strings.Contains(err.Error(), "misspelled")) {
			t.Errorf("%q takes unknown names: %v", name, !known)
		}
		tried++
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if inner, ok := v[key].(map[string]any); ok {
				walk(append(slices.Clone(path), key), inner)
			}
		}
	}
	walk(nil, own)
	if tried < 30 {
		t.Errorf("only %d places tried", tried)
	}
}

// TestReasonsAreInTheValues looks that whoever reads the values sees why the
// agent needs what it has.
func TestReasonsAreInTheValues(t *testing.T) {
	text, err := os.ReadFile("chart/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"chart/values.yaml", "chart/templates/_helpers.tpl", installFile} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "# SYS_ADMIN: setns(2) into a pod's network namespace") {
			t.Errorf("%s does not say what SYS_ADMIN is for", file)
		}
	}
	// Every block at the top is explained, here or in the first line inside.
	var all map[string]any
	if err := yaml.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for name := range all {
		_, block, _ := strings.Cut("\n"+string(text), "\n"+name+":")
		block, _, _ = strings.Cut(block, "\n\n")
		before, _, _ := strings.Cut("\n"+string(text), "\n"+name+":")
		last := before[strings.LastIndex(before, "\n")+1:]
		if !strings.Contains(block, "# ") && !strings.HasPrefix(strings.TrimSpace(last), "#") && name != "relay" && name != "agent" {
			t.Errorf("value %s has no comment", name)
		}
	}
}
