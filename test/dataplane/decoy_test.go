//go:build linux

package dataplane

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/culvert-k8s/culvert/test/lab"
)

// decoy listens where a forward must never arrive: on the port of the pod's
// service, but outside the pod.
type decoy struct {
	space   *lab.Namespace
	address netip.AddrPort
	reached atomic.Int32
}

// decoyText is what every decoy says.
const decoyText = "this is a decoy"

// decoys listens with the ports of the pods' services on the loopback addresses
// and the eth0 of hosts until the test ends.
func decoys(t *testing.T, hosts ...*lab.Host) []*decoy {
	t.Helper()
	var list []*decoy
	for _, host := range hosts {
		for _, addr := range []netip.Addr{loopback4, loopback6, host.Addr()} {
			for _, port := range []uint16{greetPort, echoPort, sixPort} {
				list = append(list, newDecoy(t, host.Namespace, netip.AddrPortFrom(addr, port)))
			}
		}
	}
	return list
}

func newDecoy(t *testing.T, space *lab.Namespace, address netip.AddrPort) *decoy {
	t.Helper()
	listener, err := space.Listen(address.String())
	if err != nil {
		t.Fatal(err)
	}
	d := &decoy{space: space, address: address}
	var serving sync.WaitGroup
	serving.Go(func() { d.serve(listener) })
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	return d
}

func (d *decoy) serve(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // closed
		}
		d.reached.Add(1)
		_, _ = fmt.Fprintln(conn, decoyText)
		conn.Close()
	}
}

// works claims that the decoy would have noticed.
func (d *decoy) works(t *testing.T) error {
	before := d.reached.Load()
	conn, err := d.space.Dial(t.Context(), d.address.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if string(text) != decoyText+"\n" || d.reached.Load() != before+1 {
		return fmt.Errorf("decoy at %s said %q and was reached %d times", d.address, text, d.reached.Load()-before)
	}
	return nil
}
