package standalone

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

const (
	tokenBytes    = 32
	maxTokenShown = 4096
)

// tokens is the contents of a token file, which may be replaced at any time.
type tokens struct {
	watched *identity.Watched[[][sha256.Size]byte]
}

// openTokens loads a token file and makes it, with one random token, if it is
// not there: removing it and starting again is a way to replace a token.
func (s *State) openTokens(name, prefix string) (*tokens, error) {
	path := filepath.Join(s.dir, name)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		b := make([]byte, tokenBytes)
		if _, err := rand.Read(b); err != nil {
			return nil, fmt.Errorf("make token: %w", err)
		}
		token := prefix + base64.RawURLEncoding.EncodeToString(b)
		if err := identity.WriteFile(path, []byte(token+"\n")); err != nil {
			return nil, err
		}
	}
	// Only hashes are kept in memory, and they are what is compared.
	parse := func(files [][]byte) ([][sha256.Size]byte, error) {
		all, err := identity.ParseTokens(files[0])
		if err != nil {
			return nil, fmt.Errorf("token file %s: %w", path, err)
		}
		sums := make([][sha256.Size]byte, len(all))
		for i, token := range all {
			sums[i] = sha256.Sum256([]byte(token))
		}
		return sums, nil
	}
	w, err := identity.Watch(identity.WatchConfig{
		MaxSize: maxFile,
		Check:   identity.CheckPrivate,
		Now:     s.now,
		Report:  s.report,
	}, parse, path)
	if err != nil {
		return nil, err
	}
	return &tokens{watched: w}, nil
}

// check reports whether token is one of the file's. A file that is gone or
// cannot be used lets nobody in: taking it away is how a token is revoked.
func (t *tokens) check(token string) bool {
	sums, err := t.watched.Get()
	if err != nil || len(token) > maxTokenShown {
		return false
	}
	got := sha256.Sum256([]byte(token))
	match := 0
	for i := range sums { // all of them, so that the time does not say which
		match |= subtle.ConstantTimeCompare(sums[i][:], got[:])
	}
	return match == 1
}

// CheckJoinToken reports whether token lets an agent join. A changed token file
// holds after one second at most; the time it takes depends on the length of
// token only.
func (s *State) CheckJoinToken(token string) bool { return s.join.check(token) }

// CheckClientToken reports whether token lets a client in, who is then the user
// identity.UserToken. It is to client-token what CheckJoinToken is to join-token.
func (s *State) CheckClientToken(token string) bool { return s.client.check(token) }
