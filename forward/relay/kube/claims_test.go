package kube

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"
)

// jwt makes a token that nobody signed.
func jwt(payload string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	return b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(payload)) + "." + b64([]byte("signature"))
}

// agentToken makes the token of an agent; serial tells one from another.
func agentToken(issued, expires time.Time, serial int) string {
	return jwt(fmt.Sprintf(`{"aud":["culvert-relay"],"sub":"system:serviceaccount:culvert-agent:culvert-agent","iat":%d,"exp":%d,"jti":"%d"}`,
		issued.Unix(), expires.Unix(), serial))
}

func TestParseClaims(t *testing.T) {
	c, err := parseClaims(jwt(`{"aud":["a","b"],"sub":"me","iat":1000,"exp":4600.5,"nbf":1000,"kubernetes.io":{"node":{"name":"n"}}}`))
	if err != nil || c.subject != "me" || len(c.audiences) != 2 || c.issued.Unix() != 1000 || c.expires.Unix() != 4600 {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := parseClaims(jwt(`{"aud":"a","sub":"me","iat":1,"exp":2}`)); err != nil || len(c.audiences) != 1 || c.audiences[0] != "a" {
		t.Errorf("one audience: %+v, %v", c, err)
	}
	for name, token := range map[string]string{
		"nothing":        "",
		"opaque":         "abcdef",
		"two parts":      "a.b",
		"four parts":     jwt(`{"iat":1,"exp":2}`) + ".x",
		"padding":        "e30=.e30=.e30=",
		"no JSON":        jwt("no"),
		"a list":         jwt("[]"),
		"no end":         jwt(`{"aud":"a","iat":1}`),
		"no beginning":   jwt(`{"aud":"a","exp":2}`),
		"ends before":    jwt(`{"iat":2,"exp":1}`),
		"never ends":     jwt(`{"iat":1,"exp":1e300}`),
		"negative":       jwt(`{"iat":-5,"exp":2}`),
		"audience is 1":  jwt(`{"aud":1,"iat":1,"exp":2}`),
		"end is a word":  jwt(`{"iat":1,"exp":"2"}`),
		"garbage behind": jwt(`{"iat":1,"exp":2}x`),
	} {
		if c, err := parseClaims(token); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestWhenTheNextTokenIsThere(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	for _, tt := range []struct{ life, want time.Duration }{
		{10 * time.Minute, 9*time.Minute + 30*time.Second}, // the least that is granted: with some time left
		{time.Hour, 50 * time.Minute},
		{24 * time.Hour, 24*time.Hour*4/5 + 2*time.Minute},
		{365 * 24 * time.Hour, 24*time.Hour + 2*time.Minute}, // kubelet changes it every day
	} {
		c := claims{issued: start, expires: start.Add(tt.life)}
		if got := c.over().Sub(start); got != tt.want {
			t.Errorf("a token for %v: after %v, want %v", tt.life, got, tt.want)
		}
	}
}

func FuzzClaims(f *testing.F) {
	f.Add(jwt(`{"aud":["a","b"],"sub":"me","iat":1000,"exp":4600}`))
	f.Add(jwt(`{"aud":"a","exp":1e18,"iat":1}`))
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := parseClaims(token)
		if err != nil {
			return
		}
		if strings.Count(token, ".") != 2 || !c.expires.After(c.issued) {
			t.Errorf("%+v", c)
		}
		if over := c.over(); over.Before(c.issued) || over.After(c.expires) {
			t.Errorf("the next token is there at %v, this one is good from %v to %v", over, c.issued, c.expires)
		}
	})
}
