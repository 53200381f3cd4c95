package standalone

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/authority"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

func TestNewState(t *testing.T) {
	b := newBed(t)
	ca := parse(t, b.ca.Cert.Raw)
	if key, ok := ca.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Fatalf("authority has a %T", ca.PublicKey)
	}
	if !ca.IsCA || !ca.MaxPathLenZero || !ca.NotAfter.Equal(epoch.Add(authority.Life)) || ca.KeyUsage&x509.KeyUsageDigitalSignature != 0 {
		t.Fatalf("authority: %+v", ca)
	}
	if b.Pin() != identity.PinOf(ca).String() || b.read(t, caPinFile) != b.Pin()+"\n" {
		t.Fatal("pin in state and file differ")
	}
	if p, err := identity.PinOfFile(b.path(caCertFile)); err != nil || p.String() != b.Pin() {
		t.Fatal(p, err)
	}
	for name, prefix := range map[string]string{joinTokenFile: "culvert-join-", clientTokenFile: "culvert-client-"} {
		if token := b.read(t, name); !strings.HasPrefix(token, prefix) || len(token) != len(prefix)+43+1 {
			t.Errorf("%s: %q", name, token)
		}
	}
	if _, err := b.ServingCertificate(); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("%s: mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil || b.reports.String() != "" {
		t.Fatal(err, b.reports)
	}
}

func TestReopenKeepsEverything(t *testing.T) {
	b := newBed(t)
	files := []string{caFile, servingFile, joinTokenFile, clientTokenFile, caCertFile, caPinFile}
	if _, err := b.ServingCertificate(); err != nil {
		t.Fatal(err)
	}
	cert := b.join(t, newKey(t), "node-1")
	before := make([]string, len(files))
	for i, f := range files {
		before[i] = b.read(t, f)
	}
	// Derived files come back, whatever happened to them.
	put(t, b.path(caPinFile), "junk")
	os.Remove(b.path(caCertFile))
	b.reopen(t)
	if _, err := b.ServingCertificate(); err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		if b.read(t, f) != before[i] {
			t.Errorf("%s changed", f)
		}
	}
	if name, err := b.VerifyNode(cert); name != "node-1" || err != nil {
		t.Fatal(name, err)
	}
	inv, err := ReadInvitation(b.dir)
	if err != nil || inv.Pin != b.Pin() || !b.CheckJoinToken(inv.Token) {
		t.Fatal(inv, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	keyOnly := func(s string) string { return s[:strings.Index(s, "-----BEGIN CERTIFICATE")] }
	other := newBed(t)
	cases := []struct {
		name   string
		damage func(t *testing.T, b *bed)
		want   string
	}{
		{"directory open to others", func(t *testing.T, b *bed) { os.Chmod(b.dir, 0o750) }, "chmod 700"},
		{"nodes open to others", func(t *testing.T, b *bed) { os.Chmod(b.path(nodesDir), 0o755) }, "chmod 700"},
		{"authority open to others", func(t *testing.T, b *bed) { os.Chmod(b.path(caFile), 0o640) }, "chmod 600"},
		{"token open to others", func(t *testing.T, b *bed) { os.Chmod(b.path(joinTokenFile), 0o644) }, "chmod 600"},
		{"authority gone", func(t *testing.T, b *bed) { os.Remove(b.path(caFile)) }, "restore ca.pem from a copy"},
		{"authority empty", func(t *testing.T, b *bed) { put(t, b.path(caFile), "") }, "restore it from a copy"},
		{"authority cut", func(t *testing.T, b *bed) { put(t, b.path(caFile), keyOnly(b.read(t, caFile))) }, "after the key: it holds no certificate"},
		{"authority mixed", func(t *testing.T, b *bed) {
			put(t, b.path(caFile), keyOnly(b.read(t, caFile))+string(authority.EncodeCerts(other.ca.Cert)))
		}, "does not belong"},
		{"authority is a leaf", func(t *testing.T, b *bed) { put(t, b.path(caFile), b.read(t, servingFile)) }, "not that of an authority"},
		{"authority over", func(t *testing.T, b *bed) { b.clock.add(authority.Life + day) }, "it ended"},
		{"clock before authority", func(t *testing.T, b *bed) { b.clock.add(-day) }, "correct the clock"},
		{"authority a link", func(t *testing.T, b *bed) {
			os.Rename(b.path(caFile), b.path("elsewhere"))
			os.Symlink(b.path("elsewhere"), b.path(caFile))
		}, "not a regular file"},
		{"authority too large", func(t *testing.T, b *bed) { put(t, b.path(caFile), strings.Repeat("x", maxFile+1)) }, "longer than"},
		{"token junk", func(t *testing.T, b *bed) { put(t, b.path(clientTokenFile), "short") }, "token of 5 characters"},
		{"nodes a file", func(t *testing.T, b *bed) {
			os.RemoveAll(b.path(nodesDir))
			put(t, b.path(nodesDir), "")
		}, "nodes"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t)
			if _, err := b.ServingCertificate(); err != nil {
				t.Fatal(err)
			}
			b.Close()
			c.damage(t, b)
			s, err := Open(b.config())
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			// The refusal gave the lock back.
			l, err := takeLock(b.path(lockFile))
			if err != nil {
				t.Fatal(err)
			}
			l.release()
		})
	}
}

func TestOpenRefusesConfig(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	file := filepath.Join(t.TempDir(), "file")
	put(t, file, "")
	for name, cfg := range map[string]Config{
		"no directory": {},
		"a file":       {Dir: file},
		"url":          {Dir: dir, Advertise: []string{"https://relay.test"}},
		"empty name":   {Dir: dir, Advertise: []string{""}},
		"wildcard":     {Dir: dir, Advertise: []string{"*.test"}},
		"zone":         {Dir: dir, Advertise: []string{"fe80::1%eth0"}},
		"too many":     {Dir: dir, Advertise: make([]string, 101)},
	} {
		if s, err := Open(cfg); err == nil {
			s.Close()
			t.Errorf("%s accepted", name)
		}
	}
}

func TestOpenRefusesForeignOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory to another user")
	}
	b := newBed(t)
	b.Close()
	if err := os.Chown(b.dir, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(b.config()); err == nil || !strings.Contains(err.Error(), "owned by user 12345") {
		t.Fatal(err)
	}
}

func TestOneRelayAtATime(t *testing.T) {
	b := newBed(t)
	_, err := Open(b.config())
	if !errors.Is(err, errLocked) || !strings.Contains(err.Error(), "another relay") {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.VerifyNode(b.ca.Cert); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	if _, _, err := b.IssueNode(csrFor(t, newKey(t), "node-1")); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	if err := b.Forget("node-1"); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	b.open(t)
}

// A first start may be cut off after any file it writes; the next start goes on
// from there. Only ca.pem comes first.
func TestFirstStartCutOff(t *testing.T) {
	for _, left := range [][]string{
		{},
		{caFile},
		{caFile, nodesDir},
		{caFile, nodesDir, joinTokenFile},
		{caFile, nodesDir, joinTokenFile, clientTokenFile, caPinFile},
	} {
		b := newBed(t)
		pin := b.Pin()
		b.Close()
		entries, err := os.ReadDir(b.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !slices.Contains(left, e.Name()) {
				os.RemoveAll(b.path(e.Name()))
			}
		}
		put(t, b.path(identity.TempPrefix+"123"), "half a fi")
		b.open(t)
		if (b.Pin() == pin) != slices.Contains(left, caFile) {
			t.Errorf("%v left: authority kept: %v", left, b.Pin() == pin)
		}
		if _, err := os.Stat(b.path(identity.TempPrefix + "123")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v left: temporary file kept: %v", left, err)
		}
		b.join(t, newKey(t), "node-1")
	}
}

func TestAuthorityNearItsEnd(t *testing.T) {
	b := newBed(t)
	b.clock.set(epoch.Add(authority.Life - 30*day))
	b.reopen(t)
	if !strings.Contains(b.reports.String(), "authority of the relay ends") {
		t.Fatalf("reports: %q", b.reports)
	}
	end := b.ca.Cert.NotAfter
	if cert := b.join(t, newKey(t), "node-1"); !cert.NotAfter.Equal(end) {
		t.Fatalf("certificate ends %v, authority %v", cert.NotAfter, end)
	}
	serving, err := b.ServingCertificate()
	if err != nil || !serving.Leaf.NotAfter.Equal(end) {
		t.Fatal(err)
	}
	b.clock.set(end.Add(10 * time.Minute))
	if _, _, err := b.IssueNode(csrFor(t, newKey(t), "node-2")); err == nil {
		t.Fatal("an authority that is over signed")
	}
	if _, err := b.ServingCertificate(); err != nil {
		t.Fatal("what there is should serve on: ", err)
	}
}
