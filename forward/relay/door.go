package relay

import (
	"container/list"
	"net"
	"sync"
)

// door holds the connections that have not proved who they are, so that all of
// them together cost little. When it is full, the one that has been silent for
// longest makes room: who only holds connections open keeps nobody out.
type door struct {
	limit int

	mu     sync.Mutex
	inside int
	silent list.List // of *visitor, the longest silent first
}

// visitor is a connection at the door.
type visitor struct {
	conn   net.Conn
	place  *list.Element // in silent; nil once it has shown a credential
	pushed bool          // it had to make room
}

// enter takes a connection in. It returns nil if there is no room: everybody
// inside has shown a credential and waits for the answer.
func (d *door) enter(conn net.Conn) *visitor {
	v := &visitor{conn: conn}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inside >= d.limit {
		oldest := d.silent.Front()
		if oldest == nil {
			return nil
		}
		d.push(oldest)
	}
	d.inside++
	v.place = d.silent.PushBack(v)
	return v
}

func (d *door) push(e *list.Element) {
	v, _ := d.silent.Remove(e).(*visitor)
	v.place, v.pushed = nil, true
	d.inside--
	_ = v.conn.Close() // never waits, and ends whatever goes on with it
}

// heard says that a credential came in: the visitor is not pushed out any more.
// It is false if that has happened already.
func (d *door) heard(v *visitor) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v.place != nil {
		d.silent.Remove(v.place)
		v.place = nil
	}
	return !v.pushed
}

// leave takes a visitor out. It tells whether it was pushed out before.
func (d *door) leave(v *visitor) (pushed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v.pushed {
		return true
	}
	if v.place != nil {
		d.silent.Remove(v.place)
		v.place = nil
	}
	d.inside--
	return false
}

// len returns how many are inside.
func (d *door) len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inside
}
