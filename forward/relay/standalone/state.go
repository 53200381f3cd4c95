// Package standalone is what a relay without a Kubernetes API needs in order to
// know its agents: an authority of its own, a serving certificate, a token for
// agents that join, a token for clients, and the memory of which node name
// belongs to which key. All of it is one directory:
//
//	lock          held while a relay runs
//	ca.pem        the authority: key and certificate in one file
//	serving.pem   the relay's own key, certificate and chain
//	join-token    what an agent shows to join; replace the file to replace it
//	client-token  what a client shows; likewise
//	ca.crt        the certificate out of ca.pem, for people and for clients
//	ca-pin        its pin, likewise
//	nodes/NAME    one record for each node name: the pin of its key
//	nodes.lock    held while a record changes
//
// ca.pem and nodes are the state; everything else can be made again. A key and
// its certificate share a file, so no crash can part them. Every record is
// durable before its certificate leaves, and is read from disk whenever it is
// asked for: the directory is the truth, and `forget`, run beside a serving
// relay, holds from the next question on.
//
// The directory and its files must belong to the user of the process and be open
// to nobody else. Beware of volumes whose files are given to a group when they
// are mounted (fsGroup in Kubernetes): that opens the keys, and is refused.
package standalone

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/authority"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

const (
	lockFile        = "lock"
	caFile          = "ca.pem"
	servingFile     = "serving.pem"
	joinTokenFile   = "join-token"
	clientTokenFile = "client-token"
	caCertFile      = "ca.crt"
	caPinFile       = "ca-pin"
	nodesDir        = "nodes"
	nodesLockFile   = "nodes.lock"

	defaultMaxNodes = 100_000
)

// Config says where the state is. Dir must be set.
type Config struct {
	// Dir is the state directory. It is made with mode 0700 if it is not there.
	Dir string
	// Advertise lists the names agents and clients dial: host, host:port or IP
	// literals. They go into the serving certificate beside localhost, 127.0.0.1
	// and ::1, which are always there. At most 100.
	Advertise []string
	// MaxNodes is the largest number of node names. 0 means 100,000.
	MaxNodes int
	// Now is the clock for certificates. Nil means time.Now.
	Now func() time.Time
	// Report is told what goes wrong while the relay can still serve: a token
	// file that cannot be used, a serving certificate that could not be kept.
	// Nil drops it.
	Report func(error)
}

// State is an open state directory. Safe for concurrent use. The caller closes
// it.
type State struct {
	dir       string
	advertise []string // sorted, without duplicates
	maxNodes  int
	now       func() time.Time
	report    func(error)

	ca     *authority.Authority
	join   *tokens
	client *tokens

	serving struct {
		sync.Mutex
		cert *tls.Certificate
	}
	nodes struct {
		sync.Mutex
		count int
	}
	closed atomic.Bool // set with nodes held
	lock   *lock
}

// Open opens the state directory, makes what is missing in a new one, and holds
// it against other relays until Close. It refuses a directory that others can
// get at, and one that holds a part of a state, with an error that says what to
// do; it never repairs what it cannot know.
func Open(cfg Config) (*State, error) {
	s, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("open relay state: %w", err)
	}
	return s, nil
}

func open(cfg Config) (_ *State, err error) {
	if cfg.Dir == "" {
		return nil, errors.New("no directory given")
	}
	s := &State{dir: cfg.Dir, maxNodes: cfg.MaxNodes, now: cfg.Now, report: cfg.Report}
	if s.maxNodes <= 0 {
		s.maxNodes = defaultMaxNodes
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.report == nil {
		s.report = func(error) {}
	}
	if s.advertise, err = authority.Hosts(cfg.Advertise); err != nil {
		return nil, err
	}
	if err := makeDir(s.dir); err != nil {
		return nil, err
	}
	if s.lock, err = takeLock(filepath.Join(s.dir, lockFile)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.lock.release() // the first error counts
		}
	}()
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *State) load() error {
	// Left by a process that died while it wrote; nobody else writes now.
	if err := identity.RemoveTemps(s.dir); err != nil {
		return err
	}
	if err := s.checkFiles(); err != nil {
		return err
	}
	if err := s.loadAuthority(); err != nil {
		return err
	}
	if err := s.loadNodes(); err != nil {
		return err
	}
	var err error
	if s.join, err = s.openTokens(joinTokenFile, "culvert-join-"); err != nil {
		return err
	}
	if s.client, err = s.openTokens(clientTokenFile, "culvert-client-"); err != nil {
		return err
	}
	s.loadServing()
	return s.publish()
}

// loadAuthority loads the authority, and makes one only in a directory that
// holds nothing made under another.
func (s *State) loadAuthority() error {
	path := filepath.Join(s.dir, caFile)
	b, err := readPrivate(path)
	switch {
	case err == nil:
		if s.ca, err = parseAuthority(b, s.now()); err != nil {
			return fmt.Errorf("authority %s cannot be used: %w; restore it from a copy, or move the directory away and let every agent join anew", path, err)
		}
		if end := s.ca.Cert.NotAfter; s.now().Add(authority.Notice).After(end) {
			s.report(fmt.Errorf("authority of the relay ends %s: every agent must join a new one before", end.Format(time.RFC3339)))
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// A relay that makes its first state dies before or after ca.pem appears, and
	// writes everything else after it. Anything without it is a loss.
	for _, name := range []string{nodesDir, servingFile, joinTokenFile, clientTokenFile, caCertFile, caPinFile} {
		if _, err := os.Lstat(filepath.Join(s.dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("directory %s holds %s but no %s: restore %s from a copy, or move the directory away and let every agent join anew", s.dir, name, caFile, caFile)
		}
	}
	ca, err := authority.New(s.now())
	if err != nil {
		return err
	}
	if b, err = bundle(ca.Pair); err != nil {
		return err
	}
	if err := identity.WriteFile(path, b); err != nil {
		return err
	}
	s.ca = ca
	return nil
}

// publish writes the copies for people when they are not what they should be.
func (s *State) publish() error {
	for name, want := range map[string][]byte{
		caCertFile: authority.EncodeCerts(s.ca.Cert),
		caPinFile:  []byte(s.Pin() + "\n"),
	} {
		path := filepath.Join(s.dir, name)
		if have, err := readPrivate(path); err == nil && string(have) == string(want) {
			continue
		}
		if err := identity.WriteFile(path, want); err != nil {
			return err
		}
	}
	return nil
}

// Pin returns the pin of the relay's authority, which agents and clients verify
// the relay by: sha256:<64 hexadecimal digits>.
func (s *State) Pin() string { return s.ca.Pin().String() }

// Close gives the directory back. Nothing is issued or recognized afterwards.
// It is idempotent.
func (s *State) Close() error {
	s.nodes.Lock()
	defer s.nodes.Unlock()
	s.closed.Store(true)
	return s.lock.release()
}

// Invitation is what an agent needs to join a relay.
type Invitation struct {
	Pin   string // of the relay's authority
	Token string // join token; the first one when the file holds several
}

// ReadInvitation reads the invitation out of the directory of a relay that may
// be running. It changes nothing and takes no lock.
func ReadInvitation(dir string) (Invitation, error) {
	pin, err := identity.PinOfFile(filepath.Join(dir, caCertFile))
	if err != nil {
		return Invitation{}, fmt.Errorf("read invitation: %w", err)
	}
	token, err := identity.LoadToken(filepath.Join(dir, joinTokenFile))
	if err != nil {
		return Invitation{}, fmt.Errorf("read invitation: %w", err)
	}
	return Invitation{Pin: pin.String(), Token: token}, nil
}
