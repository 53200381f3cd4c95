package identity

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// reports collects what Report is told.
type reports struct {
	mu  sync.Mutex
	all []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, err)
}

func (r *reports) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}

func upper(files [][]byte) (string, error) {
	if bytes.Contains(files[0], []byte("bad")) {
		return "", errors.New("bad contents")
	}
	return strings.ToUpper(string(files[0])), nil
}

func TestWatched(t *testing.T) {
	dir, c, r := t.TempDir(), &clock{epoch}, &reports{}
	path := put(t, dir, "f", []byte("one"))
	parsed := 0
	w, err := Watch(WatchConfig{Now: c.now, Report: r.add, MaxSize: 10}, func(files [][]byte) (string, error) {
		parsed++
		return upper(files)
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	step := func(name, want string, wantErr bool, wantReports, wantParsed int) {
		t.Helper()
		got, err := w.Get()
		if got != want || (err != nil) != wantErr || r.count() != wantReports || parsed != wantParsed {
			t.Fatalf("%s: %q, %v, %d reports, parsed %d times", name, got, err, r.count(), parsed)
		}
	}
	step("first", "ONE", false, 0, 1)
	put(t, dir, "f", []byte("two"))
	step("too early to look", "ONE", false, 0, 1)
	c.t = c.t.Add(time.Second)
	step("changed", "TWO", false, 0, 2)
	c.t = c.t.Add(time.Second)
	step("unchanged", "TWO", false, 0, 2)
	put(t, dir, "f", []byte("bad"))
	c.t = c.t.Add(time.Second)
	step("bad", "TWO", true, 1, 3)
	c.t = c.t.Add(time.Second)
	step("still bad, not told again", "TWO", true, 1, 3)
	os.Remove(path)
	c.t = c.t.Add(time.Second)
	step("gone", "TWO", true, 2, 3)
	put(t, dir, "f", []byte("longer than ten"))
	c.t = c.t.Add(time.Second)
	step("too long", "TWO", true, 3, 3)
	put(t, dir, "f", []byte("two"))
	c.t = c.t.Add(time.Second)
	step("good again", "TWO", false, 3, 4)
	put(t, dir, "f", []byte("three"))
	c.t = c.t.Add(-time.Hour)
	step("clock set back", "THREE", false, 3, 5)
}

// A process without descriptors knows nothing new, and that is not a file that was
// taken away.
func TestWatchedBlind(t *testing.T) {
	path, c, r := filepath.Join(t.TempDir(), "f"), &clock{epoch}, &reports{}
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	var blind error
	w, err := Watch(WatchConfig{Now: c.now, Report: r.add, Check: func(fs.FileInfo) error { return blind }},
		func(files [][]byte) (string, error) { return string(files[0]), nil }, path)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string, wantReports int) {
		t.Helper()
		c.t = c.t.Add(time.Minute)
		if got, err := w.Get(); got != want || err != nil || r.count() != wantReports {
			t.Errorf("%q, %v, %d reports; want %q, %d", got, err, r.count(), want, wantReports)
		}
	}
	for _, blind = range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		expect("one", 1)
	}
	write("two")
	expect("one", 1)
	blind = nil
	expect("two", 1)
	blind = syscall.EMFILE
	expect("two", 2)
}

func TestWatchFirstLoadMustSucceed(t *testing.T) {
	dir := t.TempDir()
	if _, err := Watch(WatchConfig{}, upper, dir+"/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if _, err := Watch(WatchConfig{}, upper, put(t, dir, "f", []byte("bad"))); err == nil {
		t.Fatal("bad contents accepted")
	}
	refuse := func(fs.FileInfo) error { return errors.New("no") }
	if _, err := Watch(WatchConfig{Check: refuse}, upper, put(t, dir, "f", []byte("ok"))); err == nil {
		t.Fatal("refused file accepted")
	}
	if _, err := Watch(WatchConfig{}, upper, dir); err == nil {
		t.Fatal("directory accepted")
	}
}

// Replacing a symbolic link is how mounted secrets change.
func TestWatchedFollowsLinks(t *testing.T) {
	dir, c := t.TempDir(), &clock{epoch}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(put(t, dir, "a", []byte("aaa")), link); err != nil {
		t.Skip("no symbolic links here: ", err)
	}
	w, err := Watch(WatchConfig{Now: c.now}, upper, link)
	if err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(dir, "next")
	if err := errors.Join(os.Symlink(put(t, dir, "b", []byte("bbb")), next), os.Rename(next, link)); err != nil {
		t.Fatal(err)
	}
	c.t = c.t.Add(time.Second)
	if got, err := w.Get(); got != "BBB" || err != nil {
		t.Fatal(got, err)
	}
}

// Many handshakes at once: the value is always one of those written.
func TestWatchedConcurrently(t *testing.T) {
	dir := t.TempDir()
	path := put(t, dir, "f", []byte("v0"))
	w, err := Watch(WatchConfig{Every: time.Nanosecond}, upper, path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if got, err := w.Get(); !strings.HasPrefix(got, "V") || err != nil {
					t.Errorf("%q, %v", got, err)
					return
				}
			}
		})
	}
	for i := range 50 {
		if err := WriteFile(path, []byte{'v', byte('0' + i%10)}); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

func TestKeyPairReload(t *testing.T) {
	dir, c, r := t.TempDir(), &clock{epoch}, &reports{}
	ca := newPKI(t, nil)
	first, second := ca.server("first"), ca.server("second")
	certFile := put(t, dir, "tls.crt", certsPEM(first.Certificate...))
	keyFile := put(t, dir, "tls.key", keyPEM(t, first.PrivateKey))
	pair, err := LoadKeyPair(certFile, keyFile, WatchConfig{Now: c.now, Report: r.add})
	if err != nil {
		t.Fatal(err)
	}
	serves := func(name string, want *tls.Certificate, wantErr bool) {
		t.Helper()
		c.t = c.t.Add(time.Second)
		got, err := pair.GetCertificate(nil)
		if err != nil || !bytes.Equal(got.Certificate[0], want.Certificate[0]) || (pair.Err() != nil) != wantErr {
			t.Fatalf("%s: serves %v, %v, %v", name, got.Leaf.DNSNames, err, pair.Err())
		}
	}
	serves("first", first, false)
	put(t, dir, "tls.crt", certsPEM(second.Certificate...))
	serves("half replaced", first, true)
	put(t, dir, "tls.key", keyPEM(t, second.PrivateKey))
	serves("replaced", second, false)
	put(t, dir, "tls.crt", []byte("junk"))
	serves("junk", second, true)
	os.Remove(keyFile)
	serves("gone", second, true)
	if r.count() != 3 {
		t.Fatalf("%d reports: %v", r.count(), r.all)
	}
	if _, err := LoadKeyPair(certFile, keyFile, WatchConfig{}); err == nil {
		t.Fatal("loaded a pair that is not there")
	}
}

// Certificates and authorities are replaced under a client that is in use.
func TestReloadUnderTLS(t *testing.T) {
	dir, c := t.TempDir(), &clock{epoch}
	old, next := newPKI(t, nil), newPKI(t, nil)
	user := old.peer("alice")
	caFile := put(t, dir, "ca.crt", certsPEM(old.cert.Raw))
	client := clientTLS(t, ClientConfig{
		CAFile: caFile, ALPN: "culvert-client/1", Now: c.now,
		CertFile: put(t, dir, "tls.crt", certsPEM(user.Certificate...)),
		KeyFile:  put(t, dir, "tls.key", keyPEM(t, user.PrivateKey)),
	})
	if o := handshake(t, client, serverTLS(t, old.server("relay.test"), nil, old)); o.client != nil {
		t.Fatal(o.client)
	}
	relay := serverTLS(t, next.server("relay.test"), nil, next)
	if o := handshake(t, client, relay); o.client == nil {
		t.Fatal("new authority trusted before it is in the file")
	}
	bob := next.peer("bob")
	put(t, dir, "ca.crt", certsPEM(old.cert.Raw, next.cert.Raw))
	put(t, dir, "tls.crt", certsPEM(bob.Certificate...))
	put(t, dir, "tls.key", keyPEM(t, bob.PrivateKey))
	c.t = c.t.Add(time.Second)
	o := handshake(t, client, relay)
	if o.client != nil || o.state.PeerCertificates[0].Subject.CommonName != "bob" {
		t.Fatal(o.client, o.server)
	}
	put(t, dir, "ca.crt", []byte("junk"))
	c.t = c.t.Add(time.Second)
	if o := handshake(t, client, relay); o.client != nil {
		t.Fatal("last good pool lost: ", o.client)
	}
	cas, err := LoadCAs(put(t, dir, "again.crt", certsPEM(old.cert.Raw)), WatchConfig{Now: c.now})
	if err != nil || cas.Err() != nil || !cas.Pool().Equal(old.pool()) {
		t.Fatal(err)
	}
}
