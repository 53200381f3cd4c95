package deploy_test

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// object is an object of a manifest.
type object map[string]any

// at returns what lies at a path, or nil.
func at(v any, path ...string) any {
	for _, key := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

// list returns what lies at a path as a list of objects.
func list(v any, path ...string) []map[string]any {
	all, _ := at(v, path...).([]any)
	var maps []map[string]any
	for _, one := range all {
		m, _ := one.(map[string]any)
		maps = append(maps, m)
	}
	return maps
}

func (o object) at(path ...string) any { return at(map[string]any(o), path...) }

func (o object) kind() string { return fmt.Sprint(o["kind"]) }

// name returns namespace/name, or the name of what is in no namespace.
func (o object) name() string {
	if ns := o.at("metadata", "namespace"); ns != nil {
		return fmt.Sprintf("%v/%v", ns, o.at("metadata", "name"))
	}
	return fmt.Sprint(o.at("metadata", "name"))
}

func (o object) id() string { return o.kind() + " " + o.name() }

// pod returns the template of its pods, or nil.
func (o object) pod() map[string]any {
	m, _ := o.at("spec", "template", "spec").(map[string]any)
	return m
}

func (o object) containers() []map[string]any {
	return append(list(o.pod(), "initContainers"), list(o.pod(), "containers")...)
}

// custom are the kinds that Kubernetes itself does not have.
func custom(kind string) bool {
	switch kind {
	case "Certificate", "PodMonitor", "ServiceMonitor", "PrometheusRule", "SecurityContextConstraints":
		return true
	}
	return false
}

// decode renders the chart and reads all objects, as strictly as the API server
// does with kubectl's --validate=strict.
func decode(t *testing.T, name string, values map[string]any) []object {
	t.Helper()
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	manifests, _ := render(t, values)
	var all []object
	seen := map[string]bool{}
	for _, m := range manifests {
		var o object
		if err := yaml.UnmarshalStrict([]byte(m.Content), (*map[string]any)(&o)); err != nil {
			t.Fatalf("%s: %s: %v", name, m.Name, err)
		}
		if _, _, err := strict.Decode([]byte(m.Content), nil, nil); err != nil && !custom(o.kind()) {
			t.Errorf("%s: %s: %v", name, o.id(), err)
		}
		if seen[o.id()] {
			t.Errorf("%s: %s is there twice", name, o.id())
		}
		seen[o.id()] = true
		all = append(all, o)
	}
	return all
}
