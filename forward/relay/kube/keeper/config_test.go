package keeper

import (
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	good := Config{APIServer: "https://10.96.0.1", TokenFile: tokenFile(t), Secret: secretName, Advertise: []string{"relay.test"}}
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"good":         {func(*Config) {}, ""},
		"no url":       {func(c *Config) { c.APIServer = "" }, "want https://"},
		"http":         {func(c *Config) { c.APIServer = "http://10.96.0.1" }, "want https://"},
		"not a url":    {func(c *Config) { c.APIServer = "https://[" }, "url of the API server"},
		"password":     {func(c *Config) { c.APIServer = "https://a:secret@10.96.0.1" }, "want https://"},
		"no token":     {func(c *Config) { c.TokenFile = "" }, "no token file"},
		"missing ca":   {func(c *Config) { c.CAFile = "missing" }, "missing"},
		"no secret":    {func(c *Config) { c.Secret = Name{} }, "no Secret"},
		"no names":     {func(c *Config) { c.Advertise = nil }, "no name to advertise"},
		"not a name":   {func(c *Config) { c.Advertise = []string{"a b"} }, "a b"},
		"missing file": {func(c *Config) { c.TokenFile = "missing" }, "missing"},
	} {
		cfg := good
		tc.change(&cfg)
		_, err := New(cfg)
		if (err == nil) != (tc.want == "") || err != nil && (!strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret@")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseName(t *testing.T) {
	for in, ok := range map[string]bool{
		"a/b": true, "culvert-system/culvert-relay-tls": true, "a/b.c": true,
		"": false, "a": false, "/": false, "a/": false, "/b": false, "a/b/c": false, "a/..": false, "../b": false,
		"A/b": false, "a/b c": false, "a/b%2f": false, "a/" + strings.Repeat("x", 254): false, strings.Repeat("x", 64) + "/b": false,
	} {
		n, err := ParseName(in)
		if (err == nil) != ok || ok && n.String() != in {
			t.Errorf("%q: %v, %v", in, n, err)
		}
	}
}
