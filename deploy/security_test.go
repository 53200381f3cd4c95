package deploy_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// table returns the rows of the first table below a heading, without those of
// its head. Cells are trimmed.
func table(t *testing.T, page, heading string, columns ...string) [][]string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("no %q on the page", heading)
	}
	var rows [][]string
	for line := range strings.Lines(rest) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || rows != nil && line == "" {
			break
		}
		if !strings.HasPrefix(line, "|") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) != len(columns) {
			t.Fatalf("%s: a row of %d cells, want %q: %s", heading, len(cells), columns, line)
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 || !slices.Equal(rows[0], columns) {
		t.Fatalf("%s: no table with the columns %q", heading, columns)
	}
	for _, row := range rows[2:] {
		if why := row[len(row)-1]; why == "" {
			t.Errorf("%s: no reason for %q", heading, row)
		}
	}
	return rows[2:]
}

// same compares two lists, whatever their order.
func same(t *testing.T, what string, page, manifests []string) {
	t.Helper()
	slices.Sort(page)
	slices.Sort(manifests)
	for _, line := range page {
		if !slices.Contains(manifests, line) {
			t.Errorf("%s: docs/security.md has %q, the manifests have not", what, line)
		}
	}
	for _, line := range manifests {
		if !slices.Contains(page, line) {
			t.Errorf("%s: the manifests have %q, docs/security.md has not", what, line)
		}
	}
	if len(page) != len(slices.Compact(slices.Clone(page))) {
		t.Errorf("%s: docs/security.md has a row twice", what)
	}
}

// TestSecurityPage holds the tables of docs/security.md against the manifests.
func TestSecurityPage(t *testing.T) {
	text, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	objects := decode(t, "install", valueFiles(t)["install"])
	t.Run("capabilities", func(t *testing.T) { capabilities(t, page, objects) })
	t.Run("mounts", func(t *testing.T) { mounts(t, page, objects) })
	t.Run("rights", func(t *testing.T) { rights(t, page) })
	t.Run("ports", func(t *testing.T) { ports(t, page, objects) })
}

func capabilities(t *testing.T, page string, objects []object) {
	var said, are []string
	for _, row := range table(t, page, "### Capabilities", "container", "capability", "user", "why") {
		said = append(said, strings.Join(row[:3], " "))
	}
	for _, o := range objects {
		for _, c := range o.containers() {
			user := at(c, "securityContext", "runAsUser")
			if user == nil {
				user = at(o.pod(), "securityContext", "runAsUser")
			}
			added := words(at(c, "securityContext", "capabilities", "add"))
			if added == "" {
				added = "none"
			}
			for one := range strings.SplitSeq(added, ",") {
				are = append(are, fmt.Sprintf("culvert-%v %s %v", c["name"], one, user))
			}
		}
	}
	same(t, "capabilities", said, are)
}

func mounts(t *testing.T, page string, objects []object) {
	var said, are []string
	for _, row := range table(t, page, "### Mounts", "container", "path", "from", "how", "why") {
		said = append(said, strings.Join(row[:4], "; "))
	}
	for _, o := range objects {
		volumes := map[any]string{}
		for _, v := range list(o.pod(), "volumes") {
			switch {
			case v["hostPath"] != nil:
				volumes[v["name"]] = "the node"
			case v["projected"] != nil:
				volumes[v["name"]] = "a projected token"
			case v["emptyDir"] != nil:
				volumes[v["name"]] = "the pod"
			case v["configMap"] != nil:
				volumes[v["name"]] = fmt.Sprintf("ConfigMap %v", at(v, "configMap", "name"))
			default:
				t.Errorf("%s: the page has no word for volume %v", o.id(), v)
			}
		}
		for _, c := range o.containers() {
			for _, m := range list(c, "volumeMounts") {
				how := "read-only"
				if m["readOnly"] != true {
					how = "writable"
				}
				if p := m["mountPropagation"]; p != nil {
					how = fmt.Sprintf("%s, %v", how, p)
				}
				are = append(are, fmt.Sprintf("culvert-%v; %v; %s; %s", c["name"], m["mountPath"], volumes[m["name"]], how))
			}
		}
	}
	same(t, "mounts", said, are)
}

func rights(t *testing.T, page string) {
	var said, are []string
	for _, row := range table(t, page, "### Rights at the API server", "role", "where", "verbs", "resources", "names", "why") {
		said = append(said, strings.Join(row[:5], "; "))
	}
	all := map[string]any{"relay": map[string]any{"impersonation": map[string]any{
		"enabled": true, "clientCA": map[string]any{"configMap": "client-ca"}, "userExtras": []any{"KEY"},
	}}}
	for _, o := range decode(t, "impersonation", all) {
		if o.kind() != "Role" && o.kind() != "ClusterRole" {
			continue
		}
		where := "cluster"
		if ns := o.at("metadata", "namespace"); ns != nil {
			where = fmt.Sprint(ns)
		}
		for _, rule := range list(map[string]any(o), "rules") {
			var resources []string
			for group := range strings.SplitSeq(words(rule["apiGroups"]), ",") {
				for resource := range strings.SplitSeq(words(rule["resources"]), ",") {
					resources = append(resources, strings.TrimSuffix(resource+"."+group, "."))
				}
			}
			are = append(are, strings.Join([]string{
				fmt.Sprint(o.at("metadata", "name")), where, strings.ReplaceAll(words(rule["verbs"]), ",", ", "),
				strings.Join(resources, ", "), strings.ReplaceAll(words(rule["resourceNames"]), ",", ", "),
			}, "; "))
		}
	}
	same(t, "rights", said, are)
}

// ports compares where somebody listens: what relay and agents dial elsewhere is
// in no manifest.
func ports(t *testing.T, page string, objects []object) {
	var said, are []string
	for _, row := range table(t, page, "### Ports", "from", "to", "port", "what") {
		if row[1] == "relay" || row[1] == "agents" {
			said = append(said, row[1]+" "+row[2])
		}
	}
	for _, o := range objects {
		for _, c := range o.containers() {
			who := map[any]string{"relay": "relay", "agent": "agents"}[c["name"]]
			for _, p := range list(c, "ports") {
				are = append(are, fmt.Sprintf("%s %v", who, p["containerPort"]))
			}
		}
	}
	slices.Sort(said)
	same(t, "ports", slices.Compact(said), are)
}
