package main

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/forward/client/kube"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// The types below are what -o json shows. Programs read them: names are only
// added, and a field that is empty is still there.

type node struct {
	Name         string     `json:"name"`
	Version      string     `json:"version"`
	Tunnels      uint32     `json:"tunnels"`
	Streams      uint32     `json:"streams"`
	Pods         uint32     `json:"pods"`
	Connected    *time.Time `json:"connected"`
	RemoteAddr   string     `json:"remoteAddr"`
	GoingAway    bool       `json:"goingAway"`
	Capabilities []string   `json:"capabilities"`
}

func nodeOf(n *controlv1.NodeInfo) node {
	return node{
		Name:         n.GetName(),
		Version:      n.GetVersion(),
		Tunnels:      n.GetTunnels(),
		Streams:      n.GetStreams(),
		Pods:         n.GetPods(),
		Connected:    timeOf(n.GetConnected()),
		RemoteAddr:   n.GetRemoteAddr(),
		GoingAway:    n.GetGoingAway(),
		Capabilities: append([]string{}, n.GetCapabilities()...),
	}
}

type pod struct {
	Namespace   string     `json:"namespace"`
	Name        string     `json:"name"`
	UID         string     `json:"uid"`
	Node        string     `json:"node"`
	HostNetwork bool       `json:"hostNetwork"`
	Created     *time.Time `json:"created"`
}

func podOf(p *controlv1.Pod) pod {
	return pod{
		Namespace:   p.GetNamespace(),
		Name:        p.GetName(),
		UID:         p.GetUid(),
		Node:        p.GetNode(),
		HostNetwork: p.GetHostNetwork(),
		Created:     timeOf(p.GetCreated()),
	}
}

type streamItem struct {
	ID         string     `json:"id"`
	User       string     `json:"user"`
	ClientAddr string     `json:"clientAddr"`
	Node       string     `json:"node"`
	Namespace  string     `json:"namespace"`
	Pod        string     `json:"pod"`
	Port       uint32     `json:"port"`
	Started    *time.Time `json:"started"`
	BytesUp    uint64     `json:"bytesUp"`
	BytesDown  uint64     `json:"bytesDown"`
	Door       string     `json:"door"`
	TraceID    string     `json:"traceId"`
	Own        bool       `json:"own"`
	Relay      string     `json:"relay,omitempty"` // its id, where several are shown
}

func (s *streamItem) target() string {
	return client.Target{Namespace: s.Namespace, Pod: s.Pod, Port: uint16(s.Port)}.String()
}

func streamOf(s *controlv1.StreamInfo) streamItem {
	return streamItem{
		ID:         s.GetId(),
		User:       s.GetUser(),
		ClientAddr: s.GetClientAddr(),
		Node:       s.GetNode(),
		Namespace:  s.GetNamespace(),
		Pod:        s.GetPod(),
		Port:       s.GetPort(),
		Started:    timeOf(s.GetStarted()),
		BytesUp:    s.GetBytesUp(),
		BytesDown:  s.GetBytesDown(),
		Door:       s.GetDoor(),
		TraceID:    s.GetTraceId(),
		Own:        s.GetOwn(),
	}
}

// timeOf returns nil, null in JSON, for a time that was not given.
func timeOf(t *timestamppb.Timestamp) *time.Time {
	if !t.IsValid() || t.AsTime().Unix() == 0 {
		return nil
	}
	at := t.AsTime().UTC().Truncate(time.Second)
	return &at
}

// compareTimes sorts what has no time first.
func compareTimes(a, b *time.Time) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return a.Compare(*b)
}

// pods asks the API server for the pods of a namespace, of all if it is empty.
func (c *cluster) pods(ctx context.Context, namespace string) ([]pod, error) {
	var out []pod
	err := kube.EachPod(ctx, c.api, namespace, func(p *corev1.Pod) {
		created := p.CreationTimestamp.UTC().Truncate(time.Second)
		out = append(out, pod{
			Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Node: p.Spec.NodeName,
			HostNetwork: p.Spec.HostNetwork, Created: &created,
		})
	})
	return out, err
}
