package relay

import (
	"fmt"
	"net"
	"testing"
)

// comesFrom is a connection with an address.
type comesFrom struct {
	net.Conn
	addr string
}

func (c comesFrom) RemoteAddr() net.Addr { return plainAddr(c.addr) }
func (comesFrom) Close() error           { return nil }

type plainAddr string

func (plainAddr) Network() string  { return "tcp" }
func (a plainAddr) String() string { return string(a) }

// A flood of silent connections from one address pushes out its own.
func TestFloodAtTheDoorPushesOutItsOwn(t *testing.T) {
	d := door{limit: 8}
	slow := d.enter(comesFrom{addr: "192.0.2.1:1"})
	slower := d.enter(comesFrom{addr: "[2001:db8::1]:1"})
	for i := range 1000 {
		if d.enter(comesFrom{addr: fmt.Sprintf("198.51.100.7:%d", i+1)}) == nil {
			t.Fatal("no room")
		}
	}
	if slow.pushed || slower.pushed {
		t.Error("who is slow had to go for who floods")
	}
	if !d.heard(slow) || d.leave(slower) || d.leave(slow) || d.len() != 6 {
		t.Errorf("%d inside", d.len())
	}
	// With one from each address it is the longest silent again.
	for i := range 8 {
		d.enter(comesFrom{addr: fmt.Sprintf("203.0.113.%d:1", i)})
	}
	first := d.enter(comesFrom{addr: "192.0.2.9:1"})
	for i := range 20 {
		d.enter(comesFrom{addr: fmt.Sprintf("192.0.2.%d:1", 100+i)})
	}
	if !first.pushed || len(d.quiet) > d.limit || d.silent.Len() != d.limit {
		t.Errorf("pushed %v, %d sources, %d silent", first.pushed, len(d.quiet), d.silent.Len())
	}
}
