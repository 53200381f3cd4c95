package kube

import (
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/culvert-k8s/culvert/forward/client"
)

// The words of the errors below are kubectl's, and so is the order of the
// questions: scripts and people know them.

// service is what is kept of a service.
type service struct {
	name     string
	headless bool
	selector map[string]string
	ports    []corev1.ServicePort
}

func serviceOf(s *corev1.Service) *service {
	return &service{
		name: s.Name, headless: s.Spec.ClusterIP == corev1.ClusterIPNone,
		selector: s.Spec.Selector, ports: s.Spec.Ports,
	}
}

// number returns the port of the service that is meant.
func (s *service) number(spec client.PortSpec) (int32, error) {
	if spec.Name == "" {
		return int32(spec.Remote), nil
	}
	for _, p := range s.ports {
		if p.Name == spec.Name {
			return p.Port, nil
		}
	}
	return 0, fmt.Errorf("Service '%s' does not have a named port '%s'", s.name, spec.Name) //nolint:staticcheck // kubectl's words
}

// udpOnly tells whether a port exists for UDP and not for TCP.
func (s *service) udpOnly(number int32) bool {
	udp, tcp := false, false
	for _, p := range s.ports {
		udp = udp || p.Port == number && p.Protocol == corev1.ProtocolUDP
		tcp = tcp || p.Port == number && p.Protocol == corev1.ProtocolTCP
	}
	return udp && !tcp
}

// target returns the port of a pod behind a port of the service.
func (s *service) target(number int32, p *pod) (int32, error) {
	for _, port := range s.ports {
		switch {
		case port.Port != number:
		case s.headless:
			return number, nil // its clients reach the pods themselves
		case port.TargetPort.Type == intstr.String:
			return p.port(port.TargetPort.StrVal)
		case port.TargetPort.IntVal == 0:
			return number, nil
		default:
			return port.TargetPort.IntVal, nil
		}
	}
	return 0, fmt.Errorf("Service %s does not have a service port %d", s.name, number) //nolint:staticcheck // kubectl's words
}

// port returns the number of a named port.
func (p *pod) port(name string) (int32, error) {
	for _, port := range p.ports {
		if port.name == name {
			return port.number, nil
		}
	}
	return 0, fmt.Errorf("Pod '%s' does not have a named port '%s'", p.name, name)
}

func (p *pod) udpOnly(number int32) bool {
	udp, tcp := false, false
	for _, port := range p.ports {
		udp = udp || port.number == number && port.protocol == corev1.ProtocolUDP
		tcp = tcp || port.number == number && port.protocol == corev1.ProtocolTCP
	}
	return udp && !tcp
}

// resolve returns the pair of numbers behind a pair that a person named, for one
// pod. svc is nil if he named no service.
func resolve(spec client.PortSpec, svc *service, p *pod) (client.Ports, error) {
	asked := int32(spec.Remote)
	var err error
	udp := p.udpOnly
	switch {
	case svc != nil:
		asked, err = svc.number(spec)
		udp = svc.udpOnly
	case spec.Name != "":
		asked, err = p.port(spec.Name)
	}
	if err != nil {
		return client.Ports{}, err
	}
	if udp(asked) {
		return client.Ports{}, fmt.Errorf("UDP protocol is not supported for %s", spec)
	}
	remote := asked
	if svc != nil {
		if remote, err = svc.target(asked, p); err != nil {
			return client.Ports{}, err
		}
	}
	local := int32(spec.Local)
	if spec.Same {
		local = asked
	}
	for _, n := range []int32{remote, local} {
		if n < 0 || n > math.MaxUint16 {
			return client.Ports{}, fmt.Errorf("port %s is %d, which is no port", spec, n)
		}
	}
	if remote == 0 {
		return client.Ports{}, fmt.Errorf("port %s is 0, which is no port", spec)
	}
	return client.Ports{Local: uint16(local), Remote: uint16(remote)}, nil
}
