package deploy_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// power lists, in words, everything that the objects may do in a cluster and on
// its nodes: what is in here can only grow together with this test.
func power(t *testing.T, objects []object) []string {
	t.Helper()
	var facts []string
	for _, o := range objects {
		switch o.kind() {
		case "Role", "ClusterRole":
			facts = append(facts, rules(t, o)...)
		case "RoleBinding", "ClusterRoleBinding":
			facts = append(facts, binding(o))
		case "ServiceAccount":
			facts = append(facts, fmt.Sprintf("%s automount=%v", o.id(), o["automountServiceAccountToken"]))
		case "Namespace":
			facts = append(facts, fmt.Sprintf("%s enforce=%v", o.id(), o.at("metadata", "labels", "pod-security.kubernetes.io/enforce")))
		case "SecurityContextConstraints":
			facts = append(facts, constraints(t, o))
		case "DaemonSet", "Deployment":
			facts = append(facts, podPower(t, o)...)
		case "ConfigMap", "Secret", "Service", "PodDisruptionBudget", "NetworkPolicy", "ResourceQuota",
			"Certificate", "PodMonitor", "ServiceMonitor", "PrometheusRule": // give nobody any power
		default:
			t.Errorf("%s: what may an object of this kind do?", o.id())
		}
	}
	return facts
}

// rules are one line each; whatever field a rule has, it is in there.
func rules(t *testing.T, o object) []string {
	t.Helper()
	var facts []string
	for _, rule := range list(map[string]any(o), "rules") {
		fact := fmt.Sprintf("%s: %s %s", o.id(), words(rule["verbs"]), words(rule["resources"]))
		if groups := words(rule["apiGroups"]); groups != "" {
			fact += "." + groups
		}
		if rule["resourceNames"] != nil {
			fact += " named " + words(rule["resourceNames"])
		}
		facts = append(facts, fact)
		for _, known := range []string{"verbs", "resources", "apiGroups", "resourceNames"} {
			delete(rule, known)
		}
		if len(rule) > 0 {
			t.Errorf("%s: a rule has %v", o.id(), rule)
		}
	}
	if o["aggregationRule"] != nil {
		t.Errorf("%s takes in rules of others", o.id())
	}
	for label := range at(map[string]any(o), "metadata", "labels").(map[string]any) {
		if strings.HasPrefix(label, "rbac.authorization.k8s.io/") {
			facts = append(facts, o.id()+": "+label)
		}
	}
	return facts
}

func words(v any) string {
	all, _ := v.([]any)
	var s []string
	for _, one := range all {
		s = append(s, fmt.Sprint(one))
	}
	return strings.Join(s, ",")
}

func binding(o object) string {
	var subjects []string
	for _, s := range list(map[string]any(o), "subjects") {
		name := fmt.Sprint(s["name"])
		if ns := s["namespace"]; ns != nil {
			name = fmt.Sprintf("%v/%v", ns, name)
		}
		subjects = append(subjects, fmt.Sprintf("%v %s", s["kind"], name))
	}
	return fmt.Sprintf("%s: %v %v to %s", o.id(), o.at("roleRef", "kind"), o.at("roleRef", "name"), strings.Join(subjects, ", "))
}

// constraints is the whole object but its name, since all of it gives power.
func constraints(t *testing.T, o object) string {
	t.Helper()
	id := o.id()
	delete(o, "metadata")
	delete(o, "apiVersion")
	delete(o, "kind")
	return id + ": " + text(t, o)
}

// podPower is what pods may do on a node, and who they are.
func podPower(t *testing.T, o object) []string {
	t.Helper()
	pod := o.pod()
	said := func(format string, args ...any) string { return o.id() + ": " + fmt.Sprintf(format, args...) }
	facts := []string{
		said("account %v automount=%v", pod["serviceAccountName"], pod["automountServiceAccountToken"]),
		said("pod %s", text(t, pod["securityContext"])),
	}
	for key, v := range pod {
		if strings.HasPrefix(key, "host") && v != false {
			t.Errorf("%s: %s is %v", o.id(), key, v)
		}
	}
	for _, key := range []string{"hostNetwork", "hostPID", "hostIPC"} {
		if pod[key] != false {
			t.Errorf("%s: %s is not said to be false", o.id(), key)
		}
	}
	for _, c := range o.containers() {
		facts = append(facts, said("container %v %s", c["name"], text(t, c["securityContext"])))
		for _, p := range list(c, "ports") {
			facts = append(facts, said("%v port %v", c["name"], p["containerPort"]))
			if p["hostPort"] != nil || p["hostIP"] != nil {
				t.Errorf("%s: port %v", o.id(), p)
			}
		}
		for _, m := range list(c, "volumeMounts") {
			facts = append(facts, said("%v mount %s", c["name"], text(t, m)))
		}
	}
	for _, v := range list(pod, "volumes") {
		facts = append(facts, said("volume %s", text(t, v)))
	}
	return facts
}

// text is v as JSON, whose fields are in order.
func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// defaultPower is what an install may do that changes nothing.
func defaultPower() []string {
	return []string{
		"Namespace culvert-agent enforce=privileged",
		"ServiceAccount culvert-system/culvert-relay automount=false",
		"ServiceAccount culvert-agent/culvert-agent automount=false",

		"ClusterRole culvert-relay: create tokenreviews.authentication.k8s.io",
		"ClusterRole culvert-overseer: list,delete relays/streams.culvert.dev",
		"ClusterRole culvert-overseer: list nodes",
		"ClusterRole culvert-forwarder: create pods/portforward",
		"ClusterRole culvert-forwarder: get,list,watch pods,services",
		"ClusterRole culvert-forwarder: get,list,watch daemonsets,deployments,replicasets,statefulsets.apps",
		"ClusterRoleBinding culvert-relay: ClusterRole culvert-relay to ServiceAccount culvert-system/culvert-relay",
		"Role culvert-system/culvert-relay: get,update secrets named culvert-relay-tls",
		"Role culvert-system/culvert-relay: get,update configmaps named culvert-relay-ca",
		"Role culvert-agent/culvert-relay: get,update configmaps named culvert-relay-ca",
		"Role culvert-system/culvert-discovery: get configmaps named culvert-relay-ca",
		"RoleBinding culvert-system/culvert-relay: Role culvert-relay to ServiceAccount culvert-system/culvert-relay",
		"RoleBinding culvert-agent/culvert-relay: Role culvert-relay to ServiceAccount culvert-system/culvert-relay",
		"RoleBinding culvert-system/culvert-discovery: Role culvert-discovery to Group system:authenticated",

		agentIs + `account culvert-agent automount=false`,
		agentIs + `pod {"fsGroup":65532,"seccompProfile":{"type":"RuntimeDefault"}}`,
		agentIs + `container broker ` + powerful,
		agentIs + `broker mount ` + netnsMount,
		agentIs + `broker mount ` + containerdMount,
		agentIs + `broker mount {"mountPath":"/run/culvert","name":"broker"}`,
		agentIs + `container agent {"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"privileged":false,"readOnlyRootFilesystem":true,"runAsGroup":65532,"runAsNonRoot":true,"runAsUser":65532}`,
		agentIs + `agent port 7481`,
		agentIs + `agent mount {"mountPath":"/run/culvert","name":"broker","readOnly":true}`,
		agentIs + `agent mount {"mountPath":"/etc/culvert/token","name":"token","readOnly":true}`,
		agentIs + `agent mount {"mountPath":"/etc/culvert/relay-ca","name":"relay-ca","readOnly":true}`,
		agentIs + `volume {"emptyDir":{"medium":"Memory","sizeLimit":"1Mi"},"name":"broker"}`,
		agentIs + `volume {"hostPath":{"path":"/run/netns","type":"DirectoryOrCreate"},"name":"netns"}`,
		agentIs + `volume {"hostPath":{"path":"/run/containerd","type":"Directory"},"name":"containerd"}`,
		agentIs + `volume {"name":"token","projected":{"defaultMode":256,"sources":[{"serviceAccountToken":{"audience":"culvert-relay","expirationSeconds":3600,"path":"token"}}]}}`,
		agentIs + `volume {"configMap":{"items":[{"key":"ca.crt","path":"ca.crt"}],"name":"culvert-relay-ca"},"name":"relay-ca"}`,

		relayIs + `account culvert-relay automount=true`,
		relayIs + `pod {"runAsGroup":65532,"runAsNonRoot":true,"runAsUser":65532,"seccompProfile":{"type":"RuntimeDefault"}}`,
		relayIs + `container relay {"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"privileged":false,"readOnlyRootFilesystem":true}`,
		relayIs + `relay port 7443`,
		relayIs + `relay port 7480`,
	}
}

// powerful is what a container has that enters pods, with both its mounts of the node.
const (
	powerful        = `{"allowPrivilegeEscalation":false,"capabilities":{"add":["SYS_ADMIN"],"drop":["ALL"]},"privileged":false,"readOnlyRootFilesystem":true,"runAsGroup":0,"runAsNonRoot":false,"runAsUser":0}`
	netnsMount      = `{"mountPath":"/run/netns","mountPropagation":"HostToContainer","name":"netns","readOnly":true}`
	containerdMount = `{"mountPath":"/run/containerd","mountPropagation":"HostToContainer","name":"containerd","readOnly":true}`
)

const (
	agentIs = "DaemonSet culvert-agent/culvert-agent: "
	relayIs = "Deployment culvert-system/culvert-relay: "
)

// change is in what an install with values differs from the one without.
type change struct {
	less, more []string
}

// changes has a line for every file of values.
func changes() map[string]change {
	keeperless := []string{
		"Role culvert-system/culvert-relay: get,update secrets named culvert-relay-tls",
		"Role culvert-system/culvert-relay: get,update configmaps named culvert-relay-ca",
		"Role culvert-agent/culvert-relay: get,update configmaps named culvert-relay-ca",
		"RoleBinding culvert-system/culvert-relay: Role culvert-relay to ServiceAccount culvert-system/culvert-relay",
		"RoleBinding culvert-agent/culvert-relay: Role culvert-relay to ServiceAccount culvert-system/culvert-relay",
	}
	authority := agentIs + `volume {"configMap":{"items":[{"key":"ca.crt","path":"ca.crt"}],"name":"culvert-relay-ca"},"name":"relay-ca"}`
	userRole := []string{
		"ClusterRole culvert-overseer: list,delete relays/streams.culvert.dev",
		"ClusterRole culvert-overseer: list nodes",
		"ClusterRole culvert-forwarder: create pods/portforward",
		"ClusterRole culvert-forwarder: get,list,watch pods,services",
		"ClusterRole culvert-forwarder: get,list,watch daemonsets,deployments,replicasets,statefulsets.apps",
		"Role culvert-system/culvert-discovery: get configmaps named culvert-relay-ca",
		"RoleBinding culvert-system/culvert-discovery: Role culvert-discovery to Group system:authenticated",
	}
	return map[string]change{
		"default": {},
		"install": {more: []string{"Namespace culvert-system enforce=restricted"}},
		"k3s": {
			less: []string{
				agentIs + `broker mount ` + containerdMount,
				agentIs + `volume {"hostPath":{"path":"/run/containerd","type":"Directory"},"name":"containerd"}`,
			},
			more: []string{
				agentIs + `broker mount {"mountPath":"/run/k3s/containerd","mountPropagation":"HostToContainer","name":"containerd","readOnly":true}`,
				agentIs + `volume {"hostPath":{"path":"/run/k3s/containerd","type":"Directory"},"name":"containerd"}`,
			},
		},
		"one-container": {
			less: []string{
				agentIs + `pod {"fsGroup":65532,"seccompProfile":{"type":"RuntimeDefault"}}`,
				agentIs + `container broker ` + powerful,
				agentIs + `container agent {"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"privileged":false,"readOnlyRootFilesystem":true,"runAsGroup":65532,"runAsNonRoot":true,"runAsUser":65532}`,
				agentIs + `broker mount ` + netnsMount,
				agentIs + `broker mount ` + containerdMount,
				agentIs + `broker mount {"mountPath":"/run/culvert","name":"broker"}`,
				agentIs + `agent mount {"mountPath":"/run/culvert","name":"broker","readOnly":true}`,
				agentIs + `volume {"emptyDir":{"medium":"Memory","sizeLimit":"1Mi"},"name":"broker"}`,
			},
			more: []string{
				agentIs + `pod {"runAsGroup":0,"runAsNonRoot":false,"runAsUser":0,"seccompProfile":{"type":"RuntimeDefault"}}`,
				agentIs + `container agent {"allowPrivilegeEscalation":false,"capabilities":{"add":["SYS_ADMIN"],"drop":["ALL"]},"privileged":false,"readOnlyRootFilesystem":true}`,
				agentIs + `agent mount ` + netnsMount,
				agentIs + `agent mount ` + containerdMount,
			},
		},
		"existing-secret": {
			less: keeperless,
			more: []string{
				relayIs + `relay mount {"mountPath":"/etc/culvert/relay-tls","name":"relay-tls","readOnly":true}`,
				relayIs + `volume {"name":"relay-tls","secret":{"secretName":"relay-certificate"}}`,
			},
		},
		"cert-manager": {
			less: append(slices.Clone(keeperless), authority),
			more: []string{
				relayIs + `relay mount {"mountPath":"/etc/culvert/relay-tls","name":"relay-tls","readOnly":true}`,
				relayIs + `volume {"name":"relay-tls","secret":{"secretName":"culvert-relay-tls"}}`,
				agentIs + `volume {"configMap":{"items":[{"key":"roots.pem","path":"ca.crt"}],"name":"internal-roots"},"name":"relay-ca"}`,
			},
		},
		"locked-down": {less: userRole},
		"impersonation": {more: []string{
			"ClusterRole culvert-relay-impersonator: impersonate users",
			"ClusterRole culvert-relay-impersonator: impersonate groups named developers",
			"ClusterRole culvert-relay-impersonator: impersonate uids.authentication.k8s.io",
			"ClusterRole culvert-relay-impersonator: impersonate userextras/scopes.authentication.k8s.io",
			"ClusterRoleBinding culvert-relay-impersonator: ClusterRole culvert-relay-impersonator to ServiceAccount culvert-system/culvert-relay",
			relayIs + `relay mount {"mountPath":"/etc/culvert/client-ca","name":"client-ca","readOnly":true}`,
			relayIs + `relay mount {"mountPath":"/etc/culvert/requestheader-ca","name":"requestheader-ca","readOnly":true}`,
			relayIs + `volume {"configMap":{"name":"client-ca"},"name":"client-ca"}`,
			relayIs + `volume {"configMap":{"name":"front-proxy-ca"},"name":"requestheader-ca"}`,
		}},
		"policy": {more: []string{
			relayIs + `relay mount {"mountPath":"/etc/culvert/policy","name":"policy","readOnly":true}`,
			relayIs + `volume {"configMap":{"name":"culvert-relay-policy"},"name":"policy"}`,
		}},
		"agents-only": {
			less: slices.Concat(keeperless, userRole, []string{
				authority,
				agentIs + `container agent {"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"privileged":false,"readOnlyRootFilesystem":true,"runAsGroup":65532,"runAsNonRoot":true,"runAsUser":65532}`,
				agentIs + `agent mount {"mountPath":"/etc/culvert/token","name":"token","readOnly":true}`,
				agentIs + `volume {"name":"token","projected":{"defaultMode":256,"sources":[{"serviceAccountToken":{"audience":"culvert-relay","expirationSeconds":3600,"path":"token"}}]}}`,
				"ServiceAccount culvert-system/culvert-relay automount=false",
				"ClusterRole culvert-relay: create tokenreviews.authentication.k8s.io",
				"ClusterRoleBinding culvert-relay: ClusterRole culvert-relay to ServiceAccount culvert-system/culvert-relay",
			}, of(relayIs)),
			more: []string{
				agentIs + `container agent {"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"privileged":false,"readOnlyRootFilesystem":true,"runAsGroup":65532,"runAsNonRoot":false,"runAsUser":0}`,
				agentIs + `agent mount {"mountPath":"/etc/culvert/join","name":"join","readOnly":true}`,
				agentIs + `agent mount {"mountPath":"/var/lib/culvert-agent","name":"state"}`,
				agentIs + `volume {"name":"join","secret":{"defaultMode":256,"secretName":"relay-join-token"}}`,
				agentIs + `volume {"hostPath":{"path":"/var/lib/culvert-agent","type":"DirectoryOrCreate"},"name":"state"}`,
				agentIs + `volume {"configMap":{"items":[{"key":"ca.crt","path":"ca.crt"}],"name":"relay-authority"},"name":"relay-ca"}`,
			},
		},
		"everything": everything(),
	}
}

// of are the lines of the default that begin with a prefix.
func of(prefix string) []string {
	return slices.DeleteFunc(defaultPower(), func(s string) bool { return !strings.HasPrefix(s, prefix) })
}

// everything has other names, which change most lines.
func everything() change {
	const agent, relay = "DaemonSet tunnel-agents/tunnel-agent: ", "Deployment tunnels/tunnel-relay: "
	var more []string
	for _, fact := range defaultPower() {
		switch {
		case strings.HasPrefix(fact, agentIs+"agent "), strings.HasPrefix(fact, agentIs+"broker "), strings.HasPrefix(fact, agentIs+"container"),
			strings.HasPrefix(fact, agentIs+"volume {\"hostPath"), strings.HasPrefix(fact, agentIs+"volume {\"emptyDir"):
			more = append(more, strings.Replace(fact, agentIs, agent, 1))
		case strings.HasPrefix(fact, relayIs+"container"), strings.HasPrefix(fact, relayIs+"relay port"):
			more = append(more, strings.Replace(fact, relayIs, relay, 1))
		}
	}
	return change{less: defaultPower(), more: append(more,
		"Namespace tunnels enforce=restricted",
		"Namespace tunnel-agents enforce=privileged",
		"ServiceAccount tunnels/tunnel automount=false",
		"ClusterRole tunnel-relay: create tokenreviews.authentication.k8s.io",
		"ClusterRole tunnel-overseer: list,delete relays/streams.culvert.dev",
		"ClusterRole tunnel-overseer: list nodes",
		"ClusterRole tunnel-forwarder: create pods/portforward",
		"ClusterRole tunnel-forwarder: get,list,watch pods,services",
		"ClusterRole tunnel-forwarder: get,list,watch daemonsets,deployments,replicasets,statefulsets.apps",
		"ClusterRole tunnel-forwarder: rbac.authorization.k8s.io/aggregate-to-edit",
		"ClusterRoleBinding tunnel-relay: ClusterRole tunnel-relay to ServiceAccount tunnels/tunnel",
		"Role tunnels/tunnel-relay: get,update secrets named tunnel-relay-tls",
		"Role tunnels/tunnel-relay: get,update configmaps named tunnel-relay-ca",
		"Role tunnel-agents/tunnel-relay: get,update configmaps named tunnel-relay-ca",
		"Role tunnels/tunnel-discovery: get configmaps named tunnel-relay-ca",
		"RoleBinding tunnels/tunnel-relay: Role tunnel-relay to ServiceAccount tunnels/tunnel",
		"RoleBinding tunnel-agents/tunnel-relay: Role tunnel-relay to ServiceAccount tunnels/tunnel",
		"RoleBinding tunnels/tunnel-discovery: Role tunnel-discovery to Group system:authenticated",
		agent+`account shared automount=false`,
		agent+`pod {"fsGroup":65532,"seLinuxOptions":{"type":"spc_t"},"seccompProfile":{"type":"RuntimeDefault"}}`,
		agent+`volume {"name":"token","projected":{"defaultMode":256,"sources":[{"serviceAccountToken":{"audience":"tunnel-relay","expirationSeconds":600,"path":"token"}}]}}`,
		agent+`volume {"configMap":{"items":[{"key":"ca.crt","path":"ca.crt"}],"name":"tunnel-relay-ca"},"name":"relay-ca"}`,
		relay+`account tunnel automount=true`,
		relay+`pod {"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}}`,
		relay+`relay mount {"mountPath":"/etc/extra","name":"extra"}`,
		relay+`volume {"configMap":{"name":"extra"},"name":"extra"}`,
		`SecurityContextConstraints tunnel-agent: {"allowHostDirVolumePlugin":true,"allowHostIPC":false,"allowHostNetwork":false,"allowHostPID":false,`+
			`"allowHostPorts":false,"allowPrivilegeEscalation":false,"allowPrivilegedContainer":false,"allowedCapabilities":["SYS_ADMIN"],`+
			`"defaultAddCapabilities":[],"defaultAllowPrivilegeEscalation":false,"fsGroup":{"type":"RunAsAny"},"groups":[],"priority":null,`+
			`"readOnlyRootFilesystem":true,"requiredDropCapabilities":["ALL"],"runAsUser":{"type":"RunAsAny"},"seLinuxContext":{"type":"RunAsAny"},`+
			`"seccompProfiles":["runtime/default"],"supplementalGroups":{"type":"RunAsAny"},"users":["system:serviceaccount:tunnel-agents:shared"],`+
			`"volumes":["configMap","emptyDir","hostPath","projected"]}`,
	)}
}

// TestPower is the list of everything that Culvert may do in a cluster. A line
// that is added here is a decision; docs/security.md must say why.
func TestPower(t *testing.T) {
	want := changes()
	for name, values := range valueFiles(t) {
		c, ok := want[name]
		if !ok {
			t.Errorf("%s-values.yaml has no line in this test", name)
			continue
		}
		expected := append(defaultPower(), c.more...)
		for _, line := range c.less {
			i := slices.Index(expected, line)
			if i < 0 {
				t.Fatalf("%s: %s is no line of the default", name, line)
			}
			expected = slices.Delete(expected, i, i+1)
		}
		got := power(t, decode(t, name, values))
		for _, fact := range got {
			if i := slices.Index(expected, fact); i >= 0 {
				expected = slices.Delete(expected, i, i+1)
			} else {
				t.Errorf("%s: not expected: %s", name, fact)
			}
		}
		for _, fact := range expected {
			t.Errorf("%s: missing: %s", name, fact)
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("there is no %s-values.yaml", name)
	}
}
