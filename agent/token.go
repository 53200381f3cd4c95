package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// tokenLife is how long a token is taken to be good that does not say.
	tokenLife = 10 * time.Minute
	// The pauses while a token is due and the file does not hold the next one.
	minTokenPause = 5 * time.Second
	maxTokenPause = time.Minute
	// maxClaims bounds, in characters, what is read of a token.
	maxClaims = stream.MaxToken
)

// errSameToken says that the file holds no new token yet, which is no trouble as
// long as there is time.
var errSameToken = errors.New("the file does not hold the next token yet")

// Token is the Identity of an agent in a pod: a token of its service account,
// which the kubelet writes to a file and replaces when four fifths of its life are
// over. The file is read for each tunnel and for each renewal; what is in it never
// gets into an error. Trust and File must be set.
type Token struct {
	Trust Trust
	// File holds one token. It may come late.
	File   string
	Report func(error) // hears of files that became unreadable; may be nil
}

var _ Identity = (*Token)(nil)

// For returns the token that the file holds now. After a refusal only the kubelet
// can bring another one, and the next attempt reads it.
func (k *Token) For(_ context.Context, relay string, _ func(Credential) *connect.Dialer) (Credential, error) {
	tc, err := clientTLS(relay, k.Trust, identity.ClientConfig{Report: k.Report})
	if err != nil {
		return Credential{}, err
	}
	token, err := identity.LoadToken(k.File)
	if err != nil {
		return Credential{}, fmt.Errorf("read the agent's token: %w", err)
	}
	s := &shownToken{file: k.File, token: token}
	hello := func() (*stream.Hello, error) {
		return &stream.Hello{Credential: stream.CredentialToken, Token: token}, nil
	}
	return Credential{TLS: tc, Hello: hello, RenewAt: lifeOf(token).due(time.Now()), Renew: s.renew}, nil
}

// shownToken is the token that one tunnel shows.
type shownToken struct {
	file  string
	token string
}

// renew shows the relay the next token if there is one.
func (s *shownToken) renew(ctx context.Context, registry controlv1.RegistryClient) (time.Time, error) {
	now := time.Now()
	token, err := identity.LoadToken(s.file)
	if err != nil {
		return now.Add(lifeOf(s.token).pause(now)), fmt.Errorf("read the agent's token: %w", err)
	}
	life := lifeOf(token)
	if token == s.token {
		return now.Add(life.pause(now)), s.same(life, now)
	}
	answer, err := registry.Renew(ctx, &controlv1.RenewRequest{Token: token})
	switch status.Code(err) {
	case codes.OK:
		s.token = token
		return life.bound(answer.GetRenewAt().AsTime(), now), nil
	case codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument:
		// A verdict on this token. The tunnel goes on with the old one for as
		// long as the relay lets it; the next tunnel shows the new one.
		s.token = token
		return life.due(now), fmt.Errorf("the relay does not take the next token for this tunnel: %w", conceal(err, token))
	}
	return now.Add(life.pause(now)), fmt.Errorf("show the relay the next token: %w", conceal(err, token))
}

// same says what it means that the file holds the token that was shown.
func (s *shownToken) same(life lifetime, now time.Time) error {
	if life.to.IsZero() || now.Before(life.last()) {
		return errSameToken
	}
	return fmt.Errorf("%s still holds the token that ends at %s: look at the kubelet, which should have replaced it",
		s.file, life.to.UTC().Format(time.RFC3339))
}

// conceal takes the token out of what a relay said about it.
func conceal(err error, token string) error {
	if !strings.Contains(err.Error(), token) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), token, "[token]"))
}

// lifetime is what a token says of its own time. Zero: it does not say.
type lifetime struct{ from, to time.Time }

// due returns when a new token should be there.
func (l lifetime) due(now time.Time) time.Time {
	if l.to.IsZero() {
		return now.Add(tokenLife)
	}
	return l.to.Add(-l.span(now) / 5) // when the kubelet replaces it
}

// last returns when it is high time.
func (l lifetime) last() time.Time { return l.to.Add(-l.span(l.to) / 10) }

// span returns how long the token is good in all, by what is known.
func (l lifetime) span(now time.Time) time.Duration {
	if l.from.IsZero() {
		return max(0, l.to.Sub(now))
	}
	return max(0, l.to.Sub(l.from))
}

// pause returns how long to wait for the next token.
func (l lifetime) pause(now time.Time) time.Duration {
	if l.to.IsZero() {
		return tokenLife
	}
	return connect.UpperHalf(min(max(l.to.Sub(now)/4, 2*minTokenPause), maxTokenPause))
}

// bound returns when a relay wants the next token, as long as that makes sense.
func (l lifetime) bound(wanted, now time.Time) time.Time {
	if wanted.Unix() <= 0 {
		return l.due(now)
	}
	latest := l.last()
	if l.to.IsZero() {
		latest = now.Add(24 * time.Hour)
	}
	if wanted.After(latest) {
		wanted = latest
	}
	if earliest := now.Add(minTokenPause); wanted.Before(earliest) {
		wanted = earliest
	}
	return wanted
}

// lifeOf reads the dates in a JSON web token (RFC 7519, section 4.1). Nothing is
// verified: they only say when to look for the next one, and the relay judges.
func lifeOf(token string) lifetime {
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 || len(parts[1]) > maxClaims {
		return lifetime{}
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return lifetime{}
	}
	var claims struct {
		Issued  float64 `json:"iat"`
		Expires float64 `json:"exp"`
	}
	if err := json.Unmarshal(b, &claims); err != nil {
		return lifetime{}
	}
	return lifetime{from: dateOf(claims.Issued), to: dateOf(claims.Expires)}
}

// dateOf reads seconds since 1970, up to a time that is far away.
func dateOf(seconds float64) time.Time {
	if !(seconds >= 1 && seconds < 1<<34) {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}
