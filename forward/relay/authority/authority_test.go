package authority

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func newCA(t testing.TB) *Authority {
	t.Helper()
	a, err := New(epoch)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestNew(t *testing.T) {
	a, other := newCA(t), newCA(t)
	c := a.Cert
	if !IsAuthority(c) || !IsOwn(c) || !c.MaxPathLenZero || !Made(c).Equal(epoch) || !c.NotAfter.Equal(epoch.Add(Life)) {
		t.Errorf("%+v", c)
	}
	if a.Key.Curve != elliptic.P256() || a.Pin() != identity.PinOf(c) {
		t.Error("wrong key or pin")
	}
	if c.Subject.CommonName == other.Cert.Subject.CommonName || a.Pin() == other.Pin() {
		t.Error("two authorities look alike")
	}
}

func TestServing(t *testing.T) {
	a := newCA(t)
	hosts, err := Hosts([]string{"relay.test:7443", "10.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := a.Serving(hosts, epoch)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	for _, name := range []string{"relay.test", "10.0.0.1", "localhost", "::1"} {
		if _, err := p.Cert.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: epoch}); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(HostsOf(p.Cert), hosts) || IsAuthority(p.Cert) || IsOwn(p.Cert) {
		t.Errorf("%+v", p.Cert)
	}
	if at := RenewAt(p.Cert); at.Before(epoch.Add(ServingLife*6/10)) || at.After(epoch.Add(ServingLife*7/10)) {
		t.Errorf("renewed at %s", at)
	}
	if tc := p.TLS(a.Cert); len(tc.Certificate) != 2 || tc.Leaf != p.Cert {
		t.Errorf("%+v", tc)
	}
	// Nothing outlives the authority.
	late, err := a.Serving(hosts, epoch.Add(Life-day))
	if err != nil || !late.Cert.NotAfter.Equal(a.Cert.NotAfter) {
		t.Error(err)
	}
	if _, err := a.Serving(hosts, epoch.Add(Life+2*time.Hour)); err == nil || !strings.Contains(err.Error(), "the authority ended") {
		t.Error(err)
	}
}

func TestLoad(t *testing.T) {
	a := newCA(t)
	leaf, err := a.Serving(nil, epoch)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		pair Pair
		now  time.Time
		want string
	}{
		"good":         {a.Pair, epoch, ""},
		"a leaf":       {leaf, epoch, "not that of an authority"},
		"over":         {a.Pair, epoch.Add(Life + time.Second), "it ended"},
		"clock behind": {a.Pair, epoch.Add(-day), "correct the clock"},
	} {
		if _, err := Load(tc.pair, tc.now); (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEncoding(t *testing.T) {
	a, other := newCA(t), newCA(t)
	key, err := a.EncodeKey()
	if err != nil {
		t.Fatal(err)
	}
	both := EncodeCerts(a.Cert, other.Cert)
	k, rest, err := ParseKey(append(key, both...))
	if err != nil || !k.Equal(a.Key) || string(rest) != string(both) {
		t.Error(err)
	}
	certs, err := ParseCerts(both, 2)
	if err != nil || len(certs) != 2 || !certs[1].Equal(other.Cert) {
		t.Error(err)
	}
	if _, err := NewPair(certs[0], k); err != nil {
		t.Error(err)
	}
	if _, err := NewPair(certs[1], k); err == nil {
		t.Error("another authority's key is taken")
	}
}

func TestParseRefuses(t *testing.T) {
	a := newCA(t)
	good := string(EncodeCerts(a.Cert))
	for name, tc := range map[string]struct{ pem, want string }{
		"nothing":       {"", "holds no certificate"},
		"garbage":       {"garbage", "holds no certificate"},
		"cut":           {good[:len(good)/2], "damaged"},
		"second cut":    {good + good[:len(good)/2], "damaged"},
		"first damaged": {strings.Replace(good, "M", "!", 1) + good, "damaged"},
		"not DER":       {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})), "x509"},
		"a key":         {good + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY"})), "certificates only"},
		"too many":      {good + good + good, "more than 2"},
	} {
		if _, err := ParseCerts([]byte(tc.pem), 2); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("certificates, %s: %v", name, err)
		}
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ pem, want string }{
		"nothing":     {"", "begin with a private key"},
		"certificate": {good, "begin with a private key"},
		"not DER":     {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})), "asn1"},
		"RSA":         {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8(t, r)})), "want an ECDSA key"},
	} {
		if _, _, err := ParseKey([]byte(tc.pem)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("key, %s: %v", name, err)
		}
	}
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestHosts(t *testing.T) {
	for name, tc := range map[string]struct {
		in   []string
		want []string // beside the loopback
		err  string
	}{
		"none":        {nil, nil, ""},
		"all forms":   {[]string{"Relay.Test.:7443", "10.0.0.1:1", "[fd00::1]:443", "[fd00::2]", "relay.test", "::ffff:10.0.0.2"}, []string{"10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", "relay.test"}, ""},
		"underscore":  {[]string{"my_relay"}, []string{"my_relay"}, ""},
		"empty":       {[]string{""}, nil, "neither a host name"},
		"URL":         {[]string{"https://relay.test"}, nil, "advertised name"},
		"bad port":    {[]string{"relay.test:0"}, nil, "bad port"},
		"zone":        {[]string{"fe80::1%eth0"}, nil, "neither a host name"},
		"wildcard":    {[]string{"*.relay.test"}, nil, "neither a host name"},
		"long label":  {[]string{strings.Repeat("a", 64)}, nil, "neither a host name"},
		"long name":   {[]string{strings.Repeat("a.", 127) + "a"}, nil, "neither a host name"},
		"two hundred": {make([]string, MaxHosts+1), nil, "at most 100"},
	} {
		got, err := Hosts(tc.in)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		want := append([]string{"127.0.0.1", "::1", "localhost"}, tc.want...)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// What Hosts lets through, a certificate holds and gives back.
func FuzzHosts(f *testing.F) {
	f.Add("relay.test:7443")
	f.Add("[fd00::1]:443")
	f.Add("::ffff:1.2.3.4")
	a := newCA(f)
	f.Fuzz(func(t *testing.T, s string) {
		hosts, err := Hosts([]string{s})
		if err != nil {
			return
		}
		p, err := a.Serving(hosts, epoch)
		if err != nil {
			t.Fatal(err)
		}
		if got := HostsOf(p.Cert); !slices.Equal(got, hosts) {
			t.Fatalf("%q: %v became %v", s, hosts, got)
		}
	})
}

// What is parsed and written again is the same.
func FuzzParse(f *testing.F) {
	a := newCA(f)
	key, err := a.EncodeKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(key, EncodeCerts(a.Cert, a.Cert)...))
	f.Add(EncodeCerts(a.Cert))
	f.Fuzz(func(t *testing.T, b []byte) {
		if certs, err := ParseCerts(b, 4); err == nil {
			again, err := ParseCerts(EncodeCerts(certs...), 4)
			if err != nil || len(again) != len(certs) || len(certs) > 4 {
				t.Fatal(err)
			}
		}
		key, rest, err := ParseKey(b)
		if err != nil {
			return
		}
		if len(rest) >= len(b) || key.Curve == nil {
			t.Fatal("a key of no length")
		}
	})
}
