package policy

import "fmt"

// Annotation is what a pod names its ports with: "8080, 9000-9010". Others are
// refused then. It is the word of who may write the pod, and can only narrow.
const Annotation = "culvert.dev/allowed-ports"

// maxAnnotation bounds the text of Annotation in bytes.
const maxAnnotation = 4 << 10

// Pod is what a policy knows of a pod. It does not change.
type Pod struct {
	labels  map[string]string
	limited bool // the pod names its ports
	ports   Ports
	broken  string // what is wrong with the ports it names
}

// AboutPod takes what matters of a pod. It keeps labels.
func AboutPod(labels, annotations map[string]string) *Pod {
	p := &Pod{labels: labels}
	text, named := annotations[Annotation]
	if !named {
		return p
	}
	p.limited = true
	if len(text) > maxAnnotation {
		p.broken = fmt.Sprintf("it is longer than %d bytes", maxAnnotation)
		return p
	}
	ports, err := ParsePorts(text)
	if err != nil {
		p.broken = err.Error()
	}
	p.ports = ports
	return p
}

func (p *Pod) label(key string) (string, bool) {
	if p == nil {
		return "", false
	}
	value, has := p.labels[key]
	return value, has
}

// refuses returns why the pod itself refuses ports, empty if it does not.
func (p *Pod) refuses(r *Request, ports Ports) string {
	switch {
	case p == nil || !p.limited:
		return ""
	case p.broken != "":
		return fmt.Sprintf("the annotation %s of pod %s in namespace %s cannot be read, so no port may be reached: %s",
			Annotation, r.Pod, r.Namespace, p.broken)
	case len(p.ports) == 0:
		return fmt.Sprintf("pod %s in namespace %s lets no port be reached (annotation %s)", r.Pod, r.Namespace, Annotation)
	case len(ports.and(p.ports)) == 0:
		return fmt.Sprintf("pod %s in namespace %s lets only ports %s be reached (annotation %s)",
			r.Pod, r.Namespace, p.ports.clipped(), Annotation)
	}
	return ""
}
