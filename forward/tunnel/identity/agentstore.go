package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	nodeKeyFile  = "node.key"
	nodeCertFile = "node.crt"
	maxStored    = 256 << 10
)

// AgentStore keeps an agent's own keys and certificates, one pair for each relay
// (or each group of relays with one authority), because each such authority
// names nodes by itself. Dir must be set and is made if needed. Safe for
// concurrent use; must not be copied after the first use.
//
//	DIR/sha256-<hex>/node.key   PKCS#8 key in PEM, made once
//	DIR/sha256-<hex>/node.crt   certificate chain in PEM, leaf first
//
// The directory of a relay is named by the pin of its authority, or by
// "addr-" and a hash of its address when no pin is known.
type AgentStore struct {
	// Dir is the directory of the store, mode 0700 and owned by the user of this
	// process.
	Dir string
	// Now is the clock for validity and renewal. Nil means time.Now.
	Now func() time.Time

	mu   sync.Mutex
	open map[string]*AgentIdentity
}

// RelayDir returns the name of the directory for a relay: by pin if there is
// one, else by address.
func RelayDir(pin, address string) (string, error) {
	if pin != "" {
		p, err := ParsePin(pin)
		if err != nil {
			return "", err
		}
		return "sha256-" + hex.EncodeToString(p[:]), nil
	}
	if address == "" {
		return "", errors.New("name directory of relay: neither pin nor address")
	}
	sum := sha256.Sum256([]byte(strings.ToLower(address)))
	return "addr-" + hex.EncodeToString(sum[:16]), nil
}

// Open returns the identity of node towards the relay with this pin (or, without
// a pin, this address), and makes a key on first use. Every Open of one relay
// returns the same identity, so that two addresses of one relay never ask for
// one name with two keys. A store that others can read, or that holds a damaged
// file, is refused with an error that says what to do.
func (s *AgentStore) Open(node, pin, address string) (*AgentIdentity, error) {
	if err := CheckNodeName(node); err != nil {
		return nil, fmt.Errorf("open agent identity: %w", err)
	}
	name, err := RelayDir(pin, address)
	if err != nil {
		return nil, fmt.Errorf("open agent identity: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if id := s.open[name]; id != nil {
		if id.node != node {
			return nil, fmt.Errorf("open agent identity: in use for node %q, asked for node %q", id.node, node)
		}
		return id, nil
	}
	id := &AgentIdentity{dir: filepath.Join(s.Dir, name), node: node, now: s.Now}
	if id.now == nil {
		id.now = time.Now
	}
	if pin != "" {
		p, err := ParsePin(pin)
		if err != nil {
			return nil, err
		}
		id.pin = &p
	}
	if err := id.load(s.Dir); err != nil {
		return nil, fmt.Errorf("open agent identity: %w", err)
	}
	if s.open == nil {
		s.open = make(map[string]*AgentIdentity)
	}
	s.open[name] = id
	return id, nil
}

// AgentIdentity is one node's key and certificate towards one relay. Safe for
// concurrent use. Nothing needs closing.
type AgentIdentity struct {
	dir  string
	node string
	pin  *Pin // of the relay's authority, nil when unknown
	now  func() time.Time
	key  *ecdsa.PrivateKey

	mu   sync.Mutex
	cert *tls.Certificate // nil when there is none
}

func (id *AgentIdentity) load(store string) error {
	for _, dir := range []string{store, id.dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if err := CheckPrivate(info); err != nil {
			return fmt.Errorf("directory %s: %w", dir, err)
		}
	}
	if err := id.loadKey(); err != nil {
		return err
	}
	return id.loadCert()
}

func (id *AgentIdentity) loadKey() error {
	path := filepath.Join(id.dir, nodeKeyFile)
	b, err := readFile(path, maxStored, CheckPrivate)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(path); err != nil {
			return err
		}
		b, err = readFile(path, maxStored, CheckPrivate)
	}
	if err != nil {
		return err
	}
	id.key, err = parseKey(b)
	if err != nil {
		return fmt.Errorf("key %s is damaged: %w; restore it, or remove the directory, have the relay forget node %q and join again", path, err, id.node)
	}
	return nil
}

// makeKey writes a new key unless another process was first; whose key it is
// does not matter as long as all use the one on disk.
func makeKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	err = createFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func parseKey(b []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("holds no private key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("holds a %T, want an ECDSA key", parsed)
	}
	return key, nil
}

func (id *AgentIdentity) loadCert() error {
	path := filepath.Join(id.dir, nodeCertFile)
	b, err := readFile(path, maxStored, CheckPrivate)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var chain [][]byte
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	cert, err := id.check(chain)
	if err != nil {
		return fmt.Errorf("certificate %s cannot be used: %w; remove it and join again", path, err)
	}
	id.cert = cert
	return nil
}

// check accepts a chain only if its leaf is this node's, for this key. It does
// not look at the dates.
func (id *AgentIdentity) check(chain [][]byte) (*tls.Certificate, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return nil, fmt.Errorf("chain of %d certificates, want 1 to %d", len(chain), maxChain)
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		var err error
		if certs[i], err = x509.ParseCertificate(der); err != nil {
			return nil, err
		}
	}
	leaf := certs[0]
	if !id.key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("it is for another key")
	}
	name, err := NameOf(leaf, RoleNode)
	if err != nil {
		return nil, err
	}
	if name != id.node {
		return nil, fmt.Errorf("it is for node %q, want %q", name, id.node)
	}
	if id.pin != nil {
		if err := id.pin.signed(certs); err != nil {
			return nil, err
		}
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: id.key, Leaf: leaf}, nil
}
