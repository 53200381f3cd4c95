package standalone

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

const (
	lockPatience = 5 * time.Second
	lockPause    = 5 * time.Millisecond
)

var (
	errUnknown = errors.New("node is not known")
	errClosed  = fmt.Errorf("relay state: %w", os.ErrClosed)
)

// Node is what the relay remembers of a node.
type Node struct {
	Name   string
	Key    string    // pin of its key: sha256:<hex>
	Joined time.Time // when the name was first recorded
}

// record is a file in nodes, named as the node: its name is safe for that, and a
// file for each makes every change one rename, whatever the number of nodes.
type record struct {
	key    identity.Pin
	joined time.Time
}

type recordJSON struct {
	Key    string    `json:"key"`
	Joined time.Time `json:"joined"`
}

func (s *State) recordPath(name string) string { return filepath.Join(s.dir, nodesDir, name) }

// readRecord returns errUnknown when there is none. A damaged record keeps the
// name taken.
func (s *State) readRecord(name string) (record, error) {
	b, err := readPrivate(s.recordPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, errUnknown
	}
	if err != nil {
		return record{}, err
	}
	rec, err := parseRecord(b)
	if err != nil {
		return record{}, fmt.Errorf("record of node %q is damaged: %w; run: culvert-relay forget %s", name, err, name)
	}
	return rec, nil
}

func parseRecord(b []byte) (record, error) {
	var j recordJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return record{}, err
	}
	pin, err := identity.ParsePin(j.Key)
	if err != nil {
		return record{}, err
	}
	return record{key: pin, joined: j.Joined}, nil
}

func (s *State) writeRecord(name string, rec record) error {
	b, err := json.Marshal(recordJSON{Key: rec.key.String(), Joined: rec.joined.UTC()})
	if err != nil {
		return err
	}
	return identity.WriteFile(s.recordPath(name), append(b, '\n'))
}

// change runs f, which may change records, alone among all goroutines and all
// processes that use the directory.
func (s *State) change(f func() error) error {
	s.nodes.Lock()
	defer s.nodes.Unlock()
	if s.closed.Load() {
		return errClosed
	}
	return withRecords(s.dir, f)
}

// withRecords holds nodes.lock for f. Others hold it for a moment only; one that
// does not let go is an error and not a wait without end.
func withRecords(dir string, f func() error) error {
	path := filepath.Join(dir, nodesLockFile)
	end := time.Now().Add(lockPatience)
	for {
		l, err := tryLock(path)
		if err == nil {
			return errors.Join(f(), l.release())
		}
		if !errors.Is(err, errLocked) || time.Now().After(end) {
			return err
		}
		time.Sleep(lockPause)
	}
}

func (s *State) loadNodes() error {
	dir := filepath.Join(s.dir, nodesDir)
	if err := makeDir(dir); err != nil {
		return err
	}
	if err := withRecords(s.dir, func() error { return identity.RemoveTemps(dir) }); err != nil {
		return err
	}
	names, err := s.nodeNames()
	s.nodes.count = len(names)
	return err
}

// nodeNames lists the records. A file whose name is no node name is none.
func (s *State) nodeNames() ([]string, error) {
	d, err := os.Open(filepath.Join(s.dir, nodesDir))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return identity.CheckNodeName(n) != nil })
	slices.Sort(names)
	return names, nil
}

// Nodes returns the nodes the relay knows, sorted by name. It reads one file for
// each. A record that cannot be read leaves its Key empty: the name is taken all
// the same.
func (s *State) Nodes() ([]Node, error) {
	names, err := s.nodeNames()
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	nodes := make([]Node, 0, len(names))
	for _, name := range names {
		rec, err := s.readRecord(name)
		switch {
		case errors.Is(err, errUnknown): // forgotten since
		case err != nil:
			nodes = append(nodes, Node{Name: name})
		default:
			nodes = append(nodes, Node{Name: name, Key: rec.key.String(), Joined: rec.joined})
		}
	}
	return nodes, nil
}

// Forget frees a node name: certificates issued for it are refused from now on,
// and any key may join under it. The error of a name that is not known has
// fs.ErrNotExist in its chain.
func (s *State) Forget(name string) error {
	s.nodes.Lock()
	defer s.nodes.Unlock()
	if s.closed.Load() {
		return errClosed
	}
	if err := Forget(s.dir, name); err != nil {
		return err
	}
	s.nodes.count--
	return nil
}

// Forget is State.Forget on the directory of a relay that may be running; the
// relay obeys from its next look at the node.
func Forget(dir, name string) error {
	if err := identity.CheckNodeName(name); err != nil {
		return fmt.Errorf("forget node: %w", err)
	}
	nodes := filepath.Join(dir, nodesDir)
	if _, err := os.Stat(nodes); err != nil {
		return fmt.Errorf("forget node %q: no relay state: %w", name, err)
	}
	err := withRecords(dir, func() error {
		if err := os.Remove(filepath.Join(nodes, name)); err != nil {
			return err
		}
		return identity.SyncDir(nodes)
	})
	if err != nil {
		return fmt.Errorf("forget node %q: %w", name, err)
	}
	return nil
}
