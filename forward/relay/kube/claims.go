package kube

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
)

var errNoClaims = errors.New("not a JSON web token with a beginning and an end")

// maxYear bounds dates in tokens, beyond which arithmetic on them overflows.
const maxYear = 9999

// claims are what a token says of itself. Before the API server has reviewed the
// token they are good for refusing it and for nothing else.
type claims struct {
	subject         string
	audiences       []string
	issued, expires time.Time
}

// parseClaims reads the claims of a JSON web token (RFC 7519) and checks no
// signature.
func parseClaims(token string) (claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}, errNoClaims
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return claims{}, errNoClaims
	}
	var raw struct {
		Sub string   `json:"sub"`
		Aud audience `json:"aud"`
		Iat float64  `json:"iat"`
		Exp float64  `json:"exp"`
	}
	if err := json.Unmarshal(payload, &raw); err != nil {
		return claims{}, errNoClaims
	}
	c := claims{subject: raw.Sub, audiences: raw.Aud, issued: seconds(raw.Iat), expires: seconds(raw.Exp)}
	if raw.Exp <= 0 || raw.Iat <= 0 || !c.expires.After(c.issued) || c.expires.Year() > maxYear {
		return claims{}, errNoClaims
	}
	return c, nil
}

func seconds(s float64) time.Time {
	return time.Unix(int64(min(s, 1<<40)), 0)
}

// audience is a string or a list of them.
type audience []string

// UnmarshalJSON reads either.
func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

// over returns when a kubelet has put the next token into the file, and a little
// more: at four fifths of the life, or after a day.
func (c *claims) over() time.Time {
	life := c.expires.Sub(c.issued)
	next := c.issued.Add(min(life-life/5, 24*time.Hour)).Add(kubeletLag)
	if last := c.expires.Add(-life / 20); next.After(last) {
		return last
	}
	return next
}

// kubeletLag is how long a kubelet may take to look at a volume again.
const kubeletLag = 2 * time.Minute

// refusal tells why the token cannot be what is wanted, empty if it may be.
func (c *claims) refusal(subject, audience string, now time.Time) string {
	switch {
	case !slices.Contains(c.audiences, audience):
		return reasonAudience
	case c.subject != subject:
		return reasonAccount
	case !now.Before(c.expires):
		return reasonExpired
	}
	return ""
}
