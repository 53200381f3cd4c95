// Package manifest renders the chart with Helm's own code, and reads what comes
// out of it.
package manifest

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	release "helm.sh/helm/v4/pkg/release/v1/util"
	"sigs.k8s.io/yaml"
)

// Release is what Helm is told on its command line.
type Release struct {
	// Name is that of the release. Empty means culvert.
	Name string
	// Namespace is that of the release. Empty means culvert-system.
	Namespace string
	// Values are laid over those of the chart; nil for none.
	Values map[string]any
}

// Chart is the chart as it lies in a directory.
type Chart struct{ chart *chart.Chart }

// Load reads a chart.
func Load(dir string) (*Chart, error) {
	c, err := loader.LoadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("load chart %s: %w", dir, err)
	}
	return &Chart{c}, nil
}

// Render returns all objects in the order in which Helm applies them, each with
// its comments, and the notes. Values are checked against the chart's schema.
func (c *Chart) Render(ctx context.Context, r Release) (objects []release.Manifest, notes string, err error) {
	if r.Name == "" {
		r.Name = "culvert"
	}
	if r.Namespace == "" {
		r.Namespace = "culvert-system"
	}
	options := common.ReleaseOptions{Name: r.Name, Namespace: r.Namespace, Revision: 1, IsInstall: true}
	values, err := util.ToRenderValues(c.chart, r.Values, options, common.DefaultCapabilities)
	if err != nil {
		return nil, "", fmt.Errorf("values: %w", err)
	}
	files, err := engine.Engine{Strict: true}.RenderWithContext(ctx, c.chart, values)
	if err != nil {
		return nil, "", fmt.Errorf("render: %w", err)
	}
	for name, text := range files {
		if path.Base(name) == "NOTES.txt" {
			notes = text
			delete(files, name)
		}
	}
	_, objects, err = release.SortManifests(files, nil, release.InstallOrder)
	if err != nil {
		return nil, "", fmt.Errorf("sort: %w", err)
	}
	return objects, notes, nil
}

// ReadValues reads a file of values.
func ReadValues(text []byte) (map[string]any, error) {
	var values map[string]any
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		return nil, fmt.Errorf("values: %w", err)
	}
	return values, nil
}

// Static writes objects as one file for kubectl apply, without the labels that
// only Helm has a use for.
func Static(head string, objects []release.Manifest) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(head) {
		b.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
	}
	for _, object := range objects {
		b.WriteString("---\n")
		for line := range strings.Lines(strings.TrimSpace(object.Content)) {
			label := strings.TrimSpace(line)
			if label == "app.kubernetes.io/managed-by: Helm" || strings.HasPrefix(label, "helm.sh/chart: ") || label == "" {
				continue
			}
			b.WriteString(strings.TrimRight(line, " \n") + "\n")
		}
	}
	return b.Bytes()
}

// Pack writes the chart as an archive into a directory that exists, and returns
// its path.
func (c *Chart) Pack(dir string) (string, error) {
	archive, err := chartutil.Save(c.chart, dir)
	if err != nil {
		return "", fmt.Errorf("pack chart: %w", err)
	}
	return archive, nil
}

// Version returns the version of the images, without which a chart is not
// released.
func (c *Chart) Version() string { return c.chart.Metadata.AppVersion }

// Values returns a copy of the chart's own values.
func (c *Chart) Values() (map[string]any, error) {
	for _, f := range c.chart.Raw {
		if f.Name == "values.yaml" {
			return ReadValues(f.Data)
		}
	}
	return nil, fmt.Errorf("chart %s has no values.yaml", c.chart.Name())
}
