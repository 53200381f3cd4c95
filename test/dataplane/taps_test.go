//go:build linux

package dataplane

import (
	"errors"
	"sync"
	"testing"

	"github.com/culvert-k8s/culvert/test/lab"
)

// tap is a place where packets are captured.
type tap struct {
	name  string
	space *lab.Namespace
	dev   string
}

// The names of taps; those of a pod follow its name.
const (
	clientWire = "client's eth0"
	clientLo   = "client's lo"
	relayWire  = "relay's eth0"
	nodeWire   = "node's eth0"
	nodeLo     = "node's lo"
	nodeBridge = "node's bridge"
	podCable   = ": node's end of eth0"
	podWire    = ": eth0"
	podLo      = ": lo"
)

// taps are all hops on the way to pods of one node, and the ways around it.
func (f *fixture) taps(pods ...*target) []tap {
	node := pods[0].node().Namespace
	list := []tap{
		{clientWire, f.Client.Namespace, "eth0"},
		{clientLo, f.Client.Namespace, "lo"},
		{relayWire, f.Relay.Host.Namespace, "eth0"},
		{nodeWire, node, "eth0"},
		{nodeLo, node, "lo"},
		{nodeBridge, node, "pods0"},
	}
	for _, pod := range pods {
		list = append(list,
			tap{pod.name + podCable, pod.node().Namespace, pod.cable},
			tap{pod.name + podWire, pod.space, "eth0"},
			tap{pod.name + podLo, pod.space, "lo"})
	}
	return list
}

// evidence is what each tap saw.
type evidence map[string][]lab.Packet

// record starts all captures and returns when every one is running. The returned
// function ends them and gives back what they saw.
func record(t *testing.T, taps []tap) (end func() evidence) {
	t.Helper()
	captures := make([]*lab.Capture, len(taps))
	errs := make([]error, len(taps))
	each := func(do func(i int)) {
		t.Helper()
		var all sync.WaitGroup
		for i := range taps {
			all.Go(func() { do(i) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	each(func(i int) {
		captures[i], errs[i] = taps[i].space.Capture(t.Context(), lab.CaptureConfig{Interface: taps[i].dev})
	})
	return func() evidence {
		t.Helper()
		seen := make([][]lab.Packet, len(taps))
		each(func(i int) { seen[i], errs[i] = captures[i].Packets() })
		found := evidence{}
		for i := range taps {
			found[taps[i].name] = seen[i]
		}
		return found
	}
}
