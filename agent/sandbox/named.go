package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	defaultNetNSDir = "/run/netns"
	namedNamespace  = "default"
	namedPoll       = time.Second
	readAtOnce      = 256 // directory entries
)

// errNotNamespace marks a file that has no namespace mounted on it.
var errNotNamespace = errors.New("no namespace is mounted here")

// NamedConfig says which named namespaces are pods. Its zero value takes those of
// the machine.
type NamedConfig struct {
	// Dir is the directory of the names. Empty means /run/netns.
	Dir string
	// MaxPods is how many names are pods; which ones, if there are more, is not
	// defined. 0 means 4096.
	MaxPods int
}

// Named takes the named network namespaces of a machine without a container
// runtime as pods: each file in a directory, as "ip netns add" makes them, is the
// pod of that name in the namespace "default". A name that is made anew is another
// pod. Make one with NewNamed. Safe for concurrent use.
type Named struct {
	cfg     NamedConfig
	gate    *gate
	changed signal

	mu    sync.Mutex
	pods  map[string]Pod // by UID
	state error          // why pods may be out of date
}

// NewNamed returns a source that knows nothing until Run or Lookup.
func NewNamed(cfg NamedConfig) *Named {
	if cfg.Dir == "" {
		cfg.Dir = defaultNetNSDir
	}
	if cfg.MaxPods <= 0 {
		cfg.MaxPods = defaultMaxPods
	}
	return &Named{cfg: cfg, gate: newGate(), changed: make(signal, 1), state: errNotListed}
}

// Run looks at the directory every second until ctx ends, and returns the
// context's error.
func (n *Named) Run(ctx context.Context) error {
	tick := time.NewTicker(namedPoll)
	defer tick.Stop()
	for {
		_, _ = n.refresh() // Ready tells what is wrong
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// refresh brings the pods up to date and returns them, or the last ones with an
// error.
func (n *Named) refresh() (map[string]Pod, error) {
	found, over, err := n.scan()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = err
	if err != nil {
		return n.pods, err
	}
	if over {
		n.state = fmt.Errorf("read %s: more than %d names", n.cfg.Dir, n.cfg.MaxPods)
	}
	if n.pods == nil || !maps.Equal(n.pods, found) {
		n.pods = found
		n.changed.raise()
	}
	return found, nil
}

// scan reads the directory. One that is not there has no namespaces: the first
// "ip netns add" makes it.
func (n *Named) scan() (pods map[string]Pod, over bool, err error) {
	pods = map[string]Pod{}
	dir, err := os.Open(n.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return pods, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read names of namespaces: %w", err)
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(readAtOnce)
		for _, entry := range entries {
			pod, is := n.podOf(entry)
			if is && len(pods) >= n.cfg.MaxPods {
				return pods, true, nil
			}
			if is {
				pods[pod.UID] = pod
			}
		}
		if errors.Is(err, io.EOF) {
			return pods, false, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("read names of namespaces: %w", err)
		}
	}
}

// podOf says which pod a directory entry is, if it is one. Links are not: what
// they lead to may change without a change of the name.
func (n *Named) podOf(entry fs.DirEntry) (Pod, bool) {
	name := entry.Name()
	if !entry.Type().IsRegular() || len(name) > maxName || !utf8.ValidString(name) {
		return Pod{}, false
	}
	path := filepath.Join(n.cfg.Dir, name)
	id, err := identify(path)
	if err != nil {
		return Pod{}, false // gone by now, or left over from a namespace
	}
	return Pod{
		Namespace: namedNamespace, Name: name, UID: id.uid(name), NetNS: path, Created: id.created,
	}, true
}

// identity tells a mounted namespace from every other one, earlier ones too. The
// inode's number alone would not do: it is soon used again.
type identity struct {
	dev, ino uint64
	created  time.Time // of the namespace's inode, in UTC
}

// uid is an opaque name for the namespace under this name; one namespace may have
// several names.
func (id identity) uid(name string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d %d %s", id.dev, id.ino, id.created.UnixNano(), name))
	return hex.EncodeToString(sum[:16])
}

// Lookup finds the pod with this UID, and checks that its name still stands for
// the same namespace. One that is not known is looked for in the directory, at a
// bounded rate. Errors: ErrNotFound, ErrBusy, ErrUnavailable, or the context's.
func (n *Named) Lookup(ctx context.Context, uid string) (Pod, error) {
	n.mu.Lock()
	pod, found := n.pods[uid]
	n.mu.Unlock()
	if found {
		if id, err := identify(pod.NetNS); err == nil && id.uid(pod.Name) == uid {
			return pod, nil
		}
	}
	pod, err := n.search(ctx, uid)
	if err != nil {
		return Pod{}, fmt.Errorf("look up pod %.*q: %w", maxUID, uid, err)
	}
	return pod, nil
}

func (n *Named) search(ctx context.Context, uid string) (Pod, error) {
	if !validUID(uid) {
		return Pod{}, ErrNotFound
	}
	leave, err := n.gate.enter(ctx)
	if err != nil {
		return Pod{}, err
	}
	defer leave()
	pods, err := n.refresh()
	if err != nil {
		return Pod{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	pod, found := pods[uid]
	if !found {
		return Pod{}, ErrNotFound
	}
	return pod, nil
}

// List returns the pods, sorted by name.
func (n *Named) List() []Pod {
	n.mu.Lock()
	pods := slices.Collect(maps.Values(n.pods))
	n.mu.Unlock()
	sortPods(pods)
	return pods
}

// Changed returns a channel that gets a value when List may have changed since
// the last one was taken. It is always the same channel, for one reader.
func (n *Named) Changed() <-chan struct{} { return n.changed }

// Ready returns nil if List is whole and at most a second old, or else why not.
func (n *Named) Ready() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state
}
