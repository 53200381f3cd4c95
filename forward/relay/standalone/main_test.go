package standalone

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// crashDir names the directory for a test process that is there to be killed.
const crashDir = "CULVERT_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		joinForEver(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

const day = 24 * time.Hour

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

func (c *clock) add(d time.Duration) { c.set(c.now().Add(d)) }

type reports struct {
	mu  sync.Mutex
	all []string
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, err.Error())
}

func (r *reports) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.all, "; ")
}

// bed is a state under test, with what its Config took.
type bed struct {
	*State
	dir     string
	clock   *clock
	reports *reports
}

func newBed(t *testing.T, advertise ...string) *bed {
	t.Helper()
	b := &bed{dir: filepath.Join(t.TempDir(), "state"), clock: &clock{t: epoch}, reports: &reports{}}
	b.open(t, advertise...)
	return b
}

func (b *bed) open(t *testing.T, advertise ...string) {
	t.Helper()
	s, err := Open(b.config(advertise...))
	if err != nil {
		t.Fatal(err)
	}
	b.State = s
	t.Cleanup(func() { s.Close() })
}

func (b *bed) config(advertise ...string) Config {
	return Config{Dir: b.dir, Advertise: advertise, Now: b.clock.now, Report: b.reports.add}
}

func (b *bed) reopen(t *testing.T, advertise ...string) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open(t, advertise...)
}

func (b *bed) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

func (b *bed) read(t *testing.T, elem ...string) string {
	t.Helper()
	c, err := os.ReadFile(b.path(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(c)
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csrFor(t *testing.T, key crypto.Signer, name string) []byte {
	t.Helper()
	return csr(t, key, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}})
}

func csr(t *testing.T, key crypto.Signer, template *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// join issues a certificate and returns its leaf.
func (b *bed) join(t *testing.T, key crypto.Signer, name string) *x509.Certificate {
	t.Helper()
	chain, _, err := b.IssueNode(csrFor(t, key, name))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, chain[0])
}

func parse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// joinForEver issues certificates and says so, line by line, until it is killed.
func joinForEver(dir string) {
	s, err := Open(Config{Dir: dir})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	out := bufio.NewWriter(os.Stdout)
	for i := 0; ; i++ {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return
		}
		name := fmt.Sprintf("node-%d-%d", os.Getpid(), i)
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
		if err != nil {
			return
		}
		chain, _, err := s.IssueNode(der)
		if err != nil {
			fmt.Println("error", err)
			return
		}
		fmt.Fprintf(out, "%x\n", chain[0])
		out.Flush()
	}
}
