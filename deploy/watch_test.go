package deploy_test

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// names returns the alerts in the groups of a rule file.
func names(groups []map[string]any) (out []string) {
	for _, g := range groups {
		for _, r := range list(g, "rules") {
			out = append(out, r["alert"].(string))
		}
	}
	return out
}

// TestRulesOfTheChart compares the alerts that the chart makes with its file, which
// deploy/watch tries.
func TestRulesOfTheChart(t *testing.T) {
	text, err := os.ReadFile("chart/files/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	all := names(list(file, "groups"))
	if len(all) < 20 {
		t.Fatalf("only %d alerts", len(all))
	}
	for name, tt := range map[string]struct {
		values string
		off    []string
	}{
		"all":      {"{prometheus: {rules: {enabled: true}}}", nil},
		"none":     {"{}", all},
		"less":     {"{prometheus: {rules: {enabled: true, disabled: [CulvertRelayAlone, CulvertPolicyBroken]}}}", []string{"CulvertRelayAlone", "CulvertPolicyBroken"}},
		"no relay": {"{prometheus: {rules: {enabled: true}}, relay: {enabled: false}, agent: {relays: ['a:1']}, tls: {caConfigMap: {name: x}}}", []string{"CulvertRelaysDown"}},
	} {
		var got []string
		for _, o := range decode(t, name, values(t, tt.values)) {
			if o.kind() != "PrometheusRule" {
				continue
			}
			groups := list(map[string]any(o), "spec", "groups")
			got = append(got, names(groups)...)
			if name == "all" && !reflect.DeepEqual(groups, list(file, "groups")) {
				t.Error("the chart changes rules")
			}
		}
		want := slices.DeleteFunc(slices.Clone(all), func(a string) bool { return slices.Contains(tt.off, a) })
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q\nwant %q", name, got, want)
		}
	}
}

// TestDashboardOfTheChart looks that Grafana's sidecar finds the whole of it.
func TestDashboardOfTheChart(t *testing.T) {
	text, err := os.ReadFile("chart/files/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, o := range decode(t, "dashboard", values(t, "{grafana: {dashboard: {enabled: true}}}")) {
		board, ok := o.at("data", "culvert.json").(string)
		if !ok {
			continue
		}
		found++
		if !json.Valid([]byte(board)) || strings.TrimSpace(board) != strings.TrimSpace(string(text)) {
			t.Error("it is not the file")
		}
		if o.at("metadata", "labels", "grafana_dashboard") != "1" {
			t.Errorf("labels %v", o.at("metadata", "labels"))
		}
	}
	if found != 1 {
		t.Errorf("%d dashboards", found)
	}
}

// TestAgentsSeriesNameTheirNode, which alerts speak of, whatever else is relabelled.
func TestAgentsSeriesNameTheirNode(t *testing.T) {
	found := false
	for _, o := range decode(t, "locked-down", valueFiles(t)["locked-down"]) {
		if o.kind() != "PodMonitor" {
			continue
		}
		rules := list(list(map[string]any(o), "spec", "podMetricsEndpoints")[0], "relabelings")
		found = len(rules) == 2 && rules[0]["targetLabel"] == "node" && rules[1]["targetLabel"] == "team"
	}
	if !found {
		t.Error("the label node is missing, or what the values say")
	}
}
