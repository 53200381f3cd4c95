package reach

import (
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/netns"
)

const (
	// keepFor is how long a namespace stays open after a dial, for the next one. A pod
	// that goes has its namespace kept alive no longer than twice this.
	keepFor = time.Second
	// maxKept bounds the namespaces that are kept open, two descriptors each.
	maxKept = 64
)

// handles keeps namespaces open for a moment: who opens one connection to a pod opens
// another. The zero value is ready. It needs no end: a moment after the last dial
// nothing is open.
type handles struct {
	mu   sync.Mutex
	kept map[string]*kept // by path; that of the node's own is empty
	tidy *time.Timer      // runs while something is kept
}

// kept is an open namespace.
type kept struct {
	*netns.Handle
	users int
	used  bool // since tidy looked last
	gone  bool // from handles: the last user closes it
}

// open returns the namespace that the pod has now. done must be called once it is not
// needed any more.
func (hs *handles) open(pod sandbox.Pod) (h *netns.Handle, done func(), err error) {
	path, open := pod.NetNS, func() (*netns.Handle, error) { return netns.Open(pod.NetNS) }
	if pod.HostNetwork {
		path, open = "", netns.OpenHost
	}
	if k := hs.borrow(path); k != nil {
		if pod.HostNetwork || k.IsAt(path) {
			return k.Handle, func() { hs.release(k) }, nil
		}
		hs.forget(path, k) // another one has its place, or nothing has
		hs.release(k)
	}
	fresh, err := open()
	if err != nil {
		return nil, nil, err
	}
	k := hs.keep(path, fresh)
	return fresh, func() { hs.release(k) }, nil
}

// borrow returns what is kept under a path, nil if nothing is.
func (hs *handles) borrow(path string) *kept {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	k := hs.kept[path]
	if k != nil {
		k.users++
		k.used = true
	}
	return k
}

// keep keeps a handle that its caller uses, unless another one was faster or there are
// many.
func (hs *handles) keep(path string, h *netns.Handle) *kept {
	k := &kept{Handle: h, users: 1, used: true}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.kept[path] != nil || len(hs.kept) >= maxKept {
		k.gone = true
		return k
	}
	if hs.kept == nil {
		hs.kept = make(map[string]*kept)
	}
	hs.kept[path] = k
	if hs.tidy == nil {
		hs.tidy = time.AfterFunc(keepFor, hs.sweep)
	}
	return k
}

// release ends the use of a handle.
func (hs *handles) release(k *kept) {
	hs.mu.Lock()
	k.users--
	last := k.gone && k.users == 0
	hs.mu.Unlock()
	if last {
		_ = k.Close() // nothing depends on it
	}
}

// forget takes a handle out, if it is still there.
func (hs *handles) forget(path string, k *kept) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.kept[path] == k {
		delete(hs.kept, path)
		k.gone = true
	}
}

// sweep closes what was not used for a while.
func (hs *handles) sweep() {
	var unused []*kept
	hs.mu.Lock()
	for path, k := range hs.kept {
		if !k.used && k.users == 0 {
			delete(hs.kept, path)
			unused = append(unused, k)
		}
		k.used = false
	}
	if len(hs.kept) > 0 {
		hs.tidy.Reset(keepFor)
	} else {
		hs.tidy = nil
	}
	hs.mu.Unlock()
	for _, k := range unused {
		_ = k.Close() // nothing depends on it
	}
}
