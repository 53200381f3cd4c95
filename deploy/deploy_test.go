package deploy_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	lint "helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	release "helm.sh/helm/v4/pkg/release/v1/util"

	"github.com/culvert-k8s/culvert/deploy/manifest"
)

// chartDir is the chart, and installFile what is rendered from it.
const (
	chartDir    = "chart"
	installFile = "install.yaml"
)

// valueFiles are all files of values that the chart is tried with, by their
// names without the ending.
func valueFiles(t *testing.T) map[string]map[string]any {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(chartDir, "ci", "*-values.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no values to try: %v", err)
	}
	files := map[string]map[string]any{"install": nil}
	for _, path := range append(paths, "install-values.yaml") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		values, err := manifest.ReadValues(text)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		files[strings.TrimSuffix(filepath.Base(path), "-values.yaml")] = values
	}
	return files
}

func load(t *testing.T) *manifest.Chart {
	t.Helper()
	chart, err := manifest.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return chart
}

func render(t *testing.T, values map[string]any) ([]release.Manifest, string) {
	t.Helper()
	objects, notes, err := load(t).Render(t.Context(), manifest.Release{Values: values})
	if err != nil {
		t.Fatal(err)
	}
	return objects, notes
}

// TestInstallIsWhatTheChartSays fails when somebody changed one of the two.
func TestInstallIsWhatTheChartSays(t *testing.T) {
	have, err := os.ReadFile(installFile)
	if err != nil {
		t.Fatal(err)
	}
	objects, _ := render(t, valueFiles(t)["install"])
	head, _, _ := strings.Cut(string(have), "\n---\n")
	var plain strings.Builder
	for line := range strings.Lines(head + "\n") {
		plain.WriteString(strings.TrimPrefix(strings.TrimPrefix(line, "#"), " "))
	}
	if !bytes.Equal(manifest.Static(plain.String(), objects), have) {
		t.Error("install.yaml is not what the chart renders: run make install-yaml and commit the result")
	}
	if bytes.Contains(have, []byte("Helm")) || bytes.Contains(have, []byte("helm.sh")) {
		t.Error("install.yaml speaks of Helm, which does not manage it")
	}
}

func TestLint(t *testing.T) {
	dir, err := filepath.Abs(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range valueFiles(t) {
		for _, m := range lint.RunAll(dir, values, "culvert-system").Messages {
			if m.Severity > support.InfoSev { // an icon is recommended; there is none
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

// TestNotes looks that people are told what to do next.
func TestNotes(t *testing.T) {
	files := valueFiles(t)
	for name, want := range map[string][]string{
		"default":         {"from inside of the cluster only", "culvert doctor", "--clusterrole=culvert-forwarder", "rollout status deployment/culvert-relay", "enforce=restricted"},
		"existing-secret": {"relay.example.com:443 from outside"},
		"agents-only":     {"rollout status daemonset/culvert-agent"},
	} {
		_, notes := render(t, files[name])
		for _, w := range want {
			if !strings.Contains(notes, w) {
				t.Errorf("%s: no %q in\n%s", name, w, notes)
			}
		}
	}
	if _, notes := render(t, files["agents-only"]); strings.Contains(notes, "deployment/") || strings.Contains(notes, "restricted") {
		t.Errorf("without a relay there is still talk of it:\n%s", notes)
	}
}

// TestKeptData holds what the relay fills out of the manifests: data that is in
// a manifest is put back whenever that is applied.
func TestKeptData(t *testing.T) {
	for name, values := range valueFiles(t) {
		auto := true
		if mode, ok := at(values, "tls", "mode").(string); ok {
			auto = mode == "auto"
		}
		for _, o := range decode(t, name, values) {
			kind, key := o.kind(), o.id()
			data, _ := o["data"].(map[string]any)
			_, stringData := o["stringData"]
			switch {
			case kind == "Secret" && (data != nil || stringData || o["type"] != "Opaque"):
				t.Errorf("%s: %s has data or a type that wants some", name, key)
			case kind == "ConfigMap" && auto && data["ca.crt"] != nil:
				t.Errorf("%s: %s has the authority that the relay makes", name, key)
			case kind == "ConfigMap" && strings.HasSuffix(key, "-relay-ca") && data["service"] == nil:
				// Data that is in one manifest and not in the next is removed as a whole.
				t.Errorf("%s: %s has no data that stays", name, key)
			}
		}
	}
}

// TestImages holds the images to the chart's version.
func TestImages(t *testing.T) {
	var images []string
	for _, o := range decode(t, "install", valueFiles(t)["install"]) {
		for _, c := range o.containers() {
			images = append(images, at(c, "image").(string)+" "+at(c, "imagePullPolicy").(string))
		}
	}
	slices.Sort(images)
	version := load(t).Version()
	want := []string{
		"ghcr.io/culvert-k8s/culvert-agent:" + version + " IfNotPresent", // the agent
		"ghcr.io/culvert-k8s/culvert-agent:" + version + " IfNotPresent", // and its broker
		"ghcr.io/culvert-k8s/culvert-relay:" + version + " IfNotPresent",
	}
	if !slices.Equal(images, want) {
		t.Errorf("images %q, want %q", images, want)
	}
	everything := decode(t, "everything", valueFiles(t)["everything"])
	for _, o := range everything {
		for _, c := range o.containers() {
			image := at(c, "image").(string)
			if !strings.HasPrefix(image, "registry.example.com/mirror/culvert-k8s/") ||
				!strings.HasSuffix(image, ":9.9") && !strings.HasSuffix(image, "@sha256:"+strings.Repeat("0", 64)) {
				t.Errorf("image %s", image)
			}
		}
	}
}
