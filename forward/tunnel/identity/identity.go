// Package identity is what agents, clients and relays must agree on about
// certificates: who a certificate says its holder is, how a relay's authority is
// pinned, which TLS each side of a session speaks, and how key pairs live on
// disk and are replaced while a process runs.
//
// Two roles come with a certificate. A node has the organization OrgNodes and
// its node name as common name. A user has a common name and groups
// (organizations) and nothing that is reserved. One certificate is never both,
// also when one authority signed all of them.
//
// The package returns errors and does not log. What goes wrong while a process
// runs (a key pair that became unreadable) is handed to a Report function.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// OrgNodes is the organization that makes a certificate a node's.
	OrgNodes = "culvert:nodes"
	// OrgReserved begins every organization that Culvert gives a meaning to. A
	// user's certificate may not carry one.
	OrgReserved = "culvert:"
	// UserToken is the user behind a relay's client token. No certificate may
	// claim this name.
	UserToken = "client:token"
	// MaxNodeName is the longest node name in bytes.
	MaxNodeName = 253
	// MaxGroups is the largest number of groups one certificate may carry.
	MaxGroups = 256
)

// ErrRole says that a certificate is good, but not for what it was shown for: a
// node's where a user's is wanted, or the other way round.
var ErrRole = errors.New("certificate is for another role")

// Role is what the holder of a certificate may be in a session.
type Role uint8

// Roles.
const (
	RoleNode Role = 1 // an agent, speaking for one node
	RoleUser Role = 2 // a client
)

// String returns "node", "user" or "role-N".
func (r Role) String() string {
	switch r {
	case RoleNode:
		return "node"
	case RoleUser:
		return "user"
	}
	return fmt.Sprintf("role-%d", uint8(r))
}

// Peer is who a certificate says its holder is.
type Peer struct {
	Role   Role
	Name   string   // node name or user name, never empty
	Groups []string // of a user; nil for a node
}

// PeerOf reads the identity out of a certificate that is already verified: it
// looks at names only, neither at signatures nor at dates. A name that is empty,
// malformed or reserved is an error, so the result may be compared, logged and,
// for a node, used as a file name.
func PeerOf(cert *x509.Certificate) (Peer, error) {
	if cert == nil {
		return Peer{}, errors.New("read identity: no certificate")
	}
	if RoleOf(cert) == RoleNode {
		name := cert.Subject.CommonName
		if err := CheckNodeName(name); err != nil {
			return Peer{}, fmt.Errorf("read identity of node certificate: %w", err)
		}
		return Peer{Role: RoleNode, Name: name}, nil
	}
	return userOf(cert)
}

// RoleOf returns RoleNode for a certificate with the organization OrgNodes and
// RoleUser for any other.
func RoleOf(cert *x509.Certificate) Role {
	if slices.Contains(cert.Subject.Organization, OrgNodes) {
		return RoleNode
	}
	return RoleUser
}

// NameOf is PeerOf for a caller that accepts one role only; another role is an
// error with ErrRole in its chain.
func NameOf(cert *x509.Certificate, want Role) (string, error) {
	peer, err := PeerOf(cert)
	if err != nil {
		return "", err
	}
	if peer.Role != want {
		return "", fmt.Errorf("read identity of %s %q, want a %s: %w", peer.Role, peer.Name, want, ErrRole)
	}
	return peer.Name, nil
}

func userOf(cert *x509.Certificate) (Peer, error) {
	name, groups := cert.Subject.CommonName, cert.Subject.Organization
	if err := checkUserText("user name", name); err != nil {
		return Peer{}, fmt.Errorf("read identity of client certificate: %w", err)
	}
	if name == UserToken {
		return Peer{}, fmt.Errorf("read identity of client certificate: user name %q is reserved", name)
	}
	if len(groups) > MaxGroups {
		return Peer{}, fmt.Errorf("read identity of user %q: %d groups, at most %d are allowed", name, len(groups), MaxGroups)
	}
	for _, g := range groups {
		if err := checkUserText("group", g); err != nil {
			return Peer{}, fmt.Errorf("read identity of user %q: %w", name, err)
		}
		if strings.HasPrefix(g, OrgReserved) {
			return Peer{}, fmt.Errorf("read identity of user %q: group %q is reserved: %w", name, g, ErrRole)
		}
	}
	return Peer{Role: RoleUser, Name: name, Groups: append([]string(nil), groups...)}, nil
}

// checkUserText refuses what a log line or the wire could not carry as it is.
func checkUserText(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%s is empty", what)
	case len(s) > stream.MaxUser:
		return fmt.Errorf("%s of %d bytes, at most %d are allowed", what, len(s), stream.MaxUser)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s is not valid UTF-8", what)
	case strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0:
		return fmt.Errorf("%s %q holds a character that cannot be printed", what, s)
	}
	return nil
}

// CheckNodeName accepts what Kubernetes accepts as a node name: labels of lower
// case letters, digits and inner dashes, joined by dots, at most MaxNodeName
// bytes. Such a name is also safe as the name of a file.
func CheckNodeName(name string) error {
	if name == "" {
		return errors.New("node name is empty")
	}
	if len(name) > MaxNodeName {
		return fmt.Errorf("node name of %d bytes, at most %d are allowed", len(name), MaxNodeName)
	}
	for label := range strings.SplitSeq(name, ".") {
		if !validLabel(label) {
			return fmt.Errorf("node name %q is not a DNS name of lower case letters, digits, dashes and dots", name)
		}
	}
	return nil
}

func validLabel(s string) bool {
	for i := range len(s) {
		c := s[i]
		inner := i > 0 && i < len(s)-1
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && inner) {
			return false
		}
	}
	return s != ""
}

// RenewAt returns when a certificate should be replaced: after two thirds of its
// life, so that a relay that is away for weeks does not cost the node its name.
func RenewAt(cert *x509.Certificate) time.Time {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return cert.NotBefore.Add(life - life/3)
}
