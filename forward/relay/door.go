package relay

import (
	"container/list"
	"net"
	"sync"
)

// door holds the connections that have not proved who they are, so that all of
// them together cost little. When it is full, one makes room: of the source that has
// most of them there, the one that has been silent for longest. Who only holds
// connections open keeps nobody out, and a flood from one address pushes out its own.
type door struct {
	limit int

	mu     sync.Mutex
	inside int
	silent list.List      // of *visitor, the longest silent first
	quiet  map[Source]int // how many of silent come from there
}

// visitor is a connection at the door.
type visitor struct {
	conn   net.Conn
	from   Source
	place  *list.Element // in silent; nil once it has shown a credential
	pushed bool          // it had to make room
}

// enter takes a connection in. It returns nil if there is no room: everybody
// inside has shown a credential and waits for the answer.
func (d *door) enter(conn net.Conn) *visitor {
	v := &visitor{conn: conn, from: ParseSource(conn.RemoteAddr().String())}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inside >= d.limit {
		least := d.least()
		if least == nil {
			return nil
		}
		d.push(least)
	}
	d.inside++
	v.place = d.silent.PushBack(v)
	if d.quiet == nil {
		d.quiet = make(map[Source]int)
	}
	d.quiet[v.from]++
	return v
}

// least returns who makes room, nil if nobody is silent.
func (d *door) least() *list.Element {
	most := 0
	for _, n := range d.quiet {
		most = max(most, n)
	}
	for e := d.silent.Front(); e != nil; e = e.Next() {
		if v, _ := e.Value.(*visitor); d.quiet[v.from] == most {
			return e
		}
	}
	return nil
}

// speaks takes a visitor off the list of those who are silent.
func (d *door) speaks(v *visitor) {
	d.silent.Remove(v.place)
	v.place = nil
	if d.quiet[v.from]--; d.quiet[v.from] == 0 {
		delete(d.quiet, v.from)
	}
}

func (d *door) push(e *list.Element) {
	v, _ := e.Value.(*visitor)
	d.speaks(v)
	v.pushed = true
	d.inside--
	_ = v.conn.Close() // never waits, and ends whatever goes on with it
}

// heard says that a credential came in: the visitor is not pushed out any more.
// It is false if that has happened already.
func (d *door) heard(v *visitor) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v.place != nil {
		d.speaks(v)
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
		d.speaks(v)
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
