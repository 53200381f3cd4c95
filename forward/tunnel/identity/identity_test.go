package identity

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func named(cn string, orgs ...string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: cn, Organization: orgs}}
}

func TestPeerOf(t *testing.T) {
	many := make([]string, MaxGroups+1)
	for i := range many {
		many[i] = "g"
	}
	cases := []struct {
		name string
		cert *x509.Certificate
		want Peer // zero: refused
	}{
		{"node", named("node-1.example", OrgNodes), Peer{Role: RoleNode, Name: "node-1.example"}},
		{"node among others", named("node-1", "x", OrgNodes), Peer{Role: RoleNode, Name: "node-1"}},
		{"user", named("alice"), Peer{Role: RoleUser, Name: "alice"}},
		{"user with groups", named("Alice Ä", "dev", "system:masters"), Peer{Role: RoleUser, Name: "Alice Ä", Groups: []string{"dev", "system:masters"}}},
		{"case matters", named("alice", "Culvert:nodes"), Peer{Role: RoleUser, Name: "alice", Groups: []string{"Culvert:nodes"}}},
		{"none", nil, Peer{}},
		{"node without name", named("", OrgNodes), Peer{}},
		{"node with a user's name", named("Alice", OrgNodes), Peer{}},
		{"node with a path", named("../../etc/passwd", OrgNodes), Peer{}},
		{"user without name", named(""), Peer{}},
		{"reserved user", named(UserToken), Peer{}},
		{"reserved group", named("alice", "culvert:admins"), Peer{}},
		{"nearly a node", named("node-1", "culvert:nodes "), Peer{}},
		{"line break", named("alice\nroot"), Peer{}},
		{"direction mark", named("alice\u202e"), Peer{}},
		{"not UTF-8", named("a\xff"), Peer{}},
		{"long user", named(strings.Repeat("a", 257)), Peer{}},
		{"empty group", named("alice", ""), Peer{}},
		{"many groups", named("alice", many...), Peer{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := PeerOf(c.cert)
			if (err != nil) != (c.want.Name == "") {
				t.Fatalf("error: %v", err)
			}
			if err == nil && (got.Role != c.want.Role || got.Name != c.want.Name || !slices.Equal(got.Groups, c.want.Groups)) {
				t.Fatalf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestNameOf(t *testing.T) {
	node, user := named("node-1", OrgNodes), named("alice", "dev")
	if name, err := NameOf(node, RoleNode); name != "node-1" || err != nil {
		t.Fatal(name, err)
	}
	if name, err := NameOf(user, RoleUser); name != "alice" || err != nil {
		t.Fatal(name, err)
	}
	for _, c := range []struct {
		cert *x509.Certificate
		want Role
	}{{node, RoleUser}, {user, RoleNode}} {
		if name, err := NameOf(c.cert, c.want); !errors.Is(err, ErrRole) || name != "" {
			t.Fatalf("%v as %v: %q, %v", c.cert.Subject, c.want, name, err)
		}
	}
}

func TestCheckNodeName(t *testing.T) {
	good := []string{"a", "0", "node-1", "ip-10-0-0-1.eu-west-1.compute.internal", "a--b", strings.Repeat("a", 253)}
	bad := []string{"", ".", "..", "-a", "a-", "a.", ".a", "a..b", "A", "a_b", "a/b", "a\\b", "a b", "a\x00", "ä", "a.-b", strings.Repeat("a", 254)}
	for _, s := range good {
		if err := CheckNodeName(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range bad {
		if CheckNodeName(s) == nil {
			t.Errorf("%q accepted", s)
		}
	}
}

func FuzzCheckNodeName(f *testing.F) {
	for _, s := range []string{"node-1", "a.b", "..", "a/b", "-", "a\x00b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if CheckNodeName(s) != nil {
			return
		}
		// What is accepted is one plain element of a path, and no temporary file.
		if filepath.Base(s) != s || filepath.Clean(s) != s || strings.HasPrefix(s, TempPrefix) || strings.ToLower(s) != s {
			t.Fatalf("%q is not safe as a file name", s)
		}
	})
}

func TestRenewAt(t *testing.T) {
	cert := &x509.Certificate{NotBefore: epoch, NotAfter: epoch.Add(90 * time.Hour)}
	if got := RenewAt(cert); !got.Equal(epoch.Add(60 * time.Hour)) {
		t.Fatal(got)
	}
}

func TestNames(t *testing.T) {
	for want, got := range map[string]string{
		"node": RoleNode.String(), "user": RoleUser.String(), "role-9": Role(9).String(),
		"none": CertNone.String(), "fresh": CertFresh.String(), "due": CertDue.String(),
		"expired": CertExpired.String(), "status-9": CertStatus(9).String(),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
