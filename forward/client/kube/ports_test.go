package kube

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/culvert-k8s/culvert/forward/client"
)

// TestPortsAreKubectls has the cases of kubectl's TestTranslateServicePortToTargetPort,
// TestConvertPodNamedPortToNumber and TestCheckUDPPort.
func TestPortsAreKubectls(t *testing.T) {
	web := &pod{name: "web", ports: []containerPort{
		{"http", 8080, corev1.ProtocolTCP}, {"dns", 53, corev1.ProtocolUDP},
		{"both", 5353, corev1.ProtocolUDP}, {"both-tcp", 5353, corev1.ProtocolTCP}, {"broken", 70000, corev1.ProtocolTCP},
	}}
	svc := &service{name: "svc", ports: []corev1.ServicePort{
		{Name: "http", Port: 80, TargetPort: intstr.FromString("http"), Protocol: corev1.ProtocolTCP},
		{Name: "https", Port: 443, TargetPort: intstr.FromInt32(8443), Protocol: corev1.ProtocolTCP},
		{Name: "plain", Port: 9000, Protocol: corev1.ProtocolTCP},
		{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
		{Name: "both", Port: 5353, Protocol: corev1.ProtocolUDP},
		{Name: "both-tcp", Port: 5353, Protocol: corev1.ProtocolTCP},
		{Name: "gone", Port: 81, TargetPort: intstr.FromString("gone"), Protocol: corev1.ProtocolTCP},
		{Name: "broken", Port: 82, TargetPort: intstr.FromInt32(70000), Protocol: corev1.ProtocolTCP},
	}}
	headless := &service{name: "headless", headless: true, ports: svc.ports}
	for _, tc := range []struct {
		svc  *service
		in   string
		want client.Ports
		err  string
	}{
		{nil, "80", client.Ports{Local: 80, Remote: 80}, ""},
		{nil, ":http", client.Ports{Remote: 8080}, ""},
		{nil, "http", client.Ports{Local: 8080, Remote: 8080}, ""},
		{nil, "1:http", client.Ports{Local: 1, Remote: 8080}, ""},
		{nil, "https", client.Ports{}, "Pod 'web' does not have a named port 'https'"},
		{nil, "53", client.Ports{}, "UDP protocol is not supported for 53"},
		{nil, "1:dns", client.Ports{}, "UDP protocol is not supported for dns"},
		{nil, "5353", client.Ports{Local: 5353, Remote: 5353}, ""},
		{nil, "broken", client.Ports{}, "port broken is 70000, which is no port"},
		{svc, "80", client.Ports{Local: 80, Remote: 8080}, ""},
		{svc, "8000:80", client.Ports{Local: 8000, Remote: 8080}, ""},
		{svc, "https", client.Ports{Local: 443, Remote: 8443}, ""},
		{svc, ":https", client.Ports{Remote: 8443}, ""},
		{svc, "plain", client.Ports{Local: 9000, Remote: 9000}, ""},
		{svc, "1234", client.Ports{}, "Service svc does not have a service port 1234"},
		{svc, "nope", client.Ports{}, "Service 'svc' does not have a named port 'nope'"},
		{svc, "81", client.Ports{}, "Pod 'web' does not have a named port 'gone'"},
		{svc, "53", client.Ports{}, "UDP protocol is not supported for 53"},
		{svc, "dns", client.Ports{}, "UDP protocol is not supported for dns"},
		{svc, "5353", client.Ports{Local: 5353, Remote: 5353}, ""},
		{svc, "82", client.Ports{}, "port 82 is 70000, which is no port"},
		{headless, "443", client.Ports{Local: 443, Remote: 443}, ""},
		{headless, "http", client.Ports{Local: 80, Remote: 80}, ""},
	} {
		spec, err := client.ParsePortSpec(tc.in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := resolve(spec, tc.svc, web)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got != tc.want || text != tc.err {
			t.Errorf("%s: %v, %q, want %v, %q", tc.in, got, text, tc.want, tc.err)
		}
	}
}
