package keeper

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/authority"
)

const day = 24 * time.Hour

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func hosts(t testing.TB, names ...string) []string {
	t.Helper()
	h, err := authority.Hosts(names)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// apply is what is in the Secret after a verdict.
func apply(data map[string][]byte, v *verdict) map[string][]byte {
	out := maps.Clone(data)
	if out == nil {
		out = map[string][]byte{}
	}
	maps.Copy(out, v.change)
	return out
}

func must(t testing.TB, w wanted, data map[string][]byte, now time.Time) *verdict {
	t.Helper()
	v, err := w.judge(data, now)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func with(data map[string][]byte, key, value string) map[string][]byte {
	out := maps.Clone(data)
	out[key] = []byte(value)
	return out
}

func TestJudge(t *testing.T) {
	w := wanted{hosts: hosts(t, "a.test"), overlap: day}
	full := apply(nil, must(t, w, nil, epoch))
	other := apply(nil, must(t, w, nil, epoch))
	later := func(d time.Duration) time.Time { return epoch.Add(d) }
	certManager := foreignCA(t)

	for name, tc := range map[string]struct {
		data    map[string][]byte
		hosts   []string
		now     time.Time
		changes string // keys that are written
		reason  string
		current bool
		err     string
	}{
		"empty":             {nil, nil, epoch, "ca.crt ca.key tls.crt tls.key", "there was none", false, ""},
		"empty values":      {map[string][]byte{"tls.crt": {}, "tls.key": {}}, nil, epoch, "ca.crt ca.key tls.crt tls.key", "new authority", false, ""},
		"good":              {full, nil, epoch, "", "", true, ""},
		"a replica's clock": {full, nil, later(-30 * time.Minute), "", "", true, ""},
		"renewal early":     {full, nil, later(200 * day), "", "", true, ""},
		"renewal":           {full, nil, later(250 * day), "ca.crt tls.crt tls.key", "two thirds", true, ""},
		"over":              {full, nil, later(400 * day), "ca.crt tls.crt tls.key", "two thirds", false, ""},
		"more names":        {full, hosts(t, "a.test", "b.test"), epoch, "ca.crt tls.crt tls.key", "names are missing", true, ""},
		"fewer names":       {full, hosts(t), epoch, "", "", true, ""},
		"no leaf":           {with(full, servingCert, ""), nil, epoch, "ca.crt tls.crt tls.key", "there was none", false, ""},
		"no leaf key":       {with(full, servingKey, ""), nil, epoch, "ca.crt tls.crt tls.key", "there was none", false, ""},
		"leaf garbage":      {with(full, servingCert, "garbage"), nil, epoch, "ca.crt tls.crt tls.key", "tls.crt could not be used: it holds no certificate", false, ""},
		"leaf cut":          {with(full, servingCert, string(full[servingCert][:100])), nil, epoch, "ca.crt tls.crt tls.key", "damaged", false, ""},
		"leaf key garbage":  {with(full, servingKey, "garbage"), nil, epoch, "ca.crt tls.crt tls.key", "tls.key could not be used", false, ""},
		"leaf key of other": {with(full, servingKey, string(other[servingKey])), nil, epoch, "ca.crt tls.crt tls.key", "does not belong", false, ""},
		"leaf of other": {
			with(with(full, servingKey, string(other[servingKey])), servingCert, string(other[servingCert])),
			nil, epoch, "ca.crt tls.crt tls.key", "signed by nobody", false, "",
		},
		"key removed": {with(full, caKey, ""), nil, epoch, "ca.crt ca.key", "new authority", true, ""},

		"key garbage":         {with(full, caKey, "garbage"), nil, epoch, "", "", false, "ca.key: it does not begin with a private key; restore it"},
		"key cut":             {with(full, caKey, string(full[caKey][:80])), nil, epoch, "", "", false, "ca.key"},
		"key of other":        {with(full, caKey, string(other[caKey])), nil, epoch, "", "", false, "belongs to no certificate in ca.crt"},
		"authority missing":   {with(full, caCert, ""), nil, epoch, "", "", false, "ca.crt: it holds no certificate; restore it, or remove ca.crt and ca.key"},
		"authority garbage":   {with(full, caCert, "garbage"), nil, epoch, "", "", false, "ca.crt"},
		"authority cut":       {with(full, caCert, string(full[caCert][:200])), nil, epoch, "", "", false, "damaged"},
		"authority a leaf":    {with(full, caCert, string(full[servingCert])), nil, epoch, "", "", false, "not that of an authority"},
		"authority over":      {full, nil, later(authority.Life + day), "", "", false, "it ended"},
		"clock far behind":    {full, nil, later(-day), "", "", false, "correct the clock"},
		"only a key":          {map[string][]byte{caKey: full[caKey]}, nil, epoch, "", "", false, "ca.crt: it holds no certificate"},
		"somebody's pair":     {map[string][]byte{servingCert: full[servingCert], servingKey: full[servingKey]}, nil, epoch, "", "", false, "--tls-cert"},
		"of cert-manager":     {map[string][]byte{servingCert: full[servingCert], servingKey: full[servingKey], caCert: certManager}, nil, epoch, "", "", false, "--tls-cert"},
		"garbage without key": {map[string][]byte{caCert: []byte("garbage")}, nil, epoch, "", "", false, "empty the Secret"},
	} {
		t.Run(name, func(t *testing.T) {
			w := w
			if tc.hosts != nil {
				w.hosts = tc.hosts
			}
			before := maps.Clone(tc.data)
			v, err := w.judge(tc.data, tc.now)
			if !maps.EqualFunc(before, tc.data, bytes.Equal) {
				t.Error("the data was changed in place")
			}
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatal(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			keys := strings.Join(slices.Sorted(maps.Keys(v.change)), " ")
			if keys != tc.changes || !strings.Contains(strings.Join(v.reasons, "; "), tc.reason) || (v.current != nil) != tc.current || v.next == nil {
				t.Errorf("writes %q because %q, current %v", keys, v.reasons, v.current)
			}
			again := must(t, w, apply(tc.data, v), tc.now)
			if again.change != nil || !again.current.Leaf.Equal(v.next.Leaf) {
				t.Errorf("not settled: %q", again.reasons)
			}
			for _, host := range w.hosts {
				if err := again.current.Leaf.VerifyHostname(host); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// foreignCA is an authority that no relay made.
func foreignCA(t *testing.T) []byte {
	t.Helper()
	a, err := authority.New(epoch)
	if err != nil {
		t.Fatal(err)
	}
	template := *a.Cert
	template.RawSubject, template.Subject.CommonName = nil, "somebody else's"
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, a.Key.Public(), a.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority.EncodeCerts(cert)
}

// While a new configuration is rolled out, replicas want different names.
func TestNamesDoNotFight(t *testing.T) {
	old := wanted{hosts: hosts(t, "a.test", "b.test"), overlap: day}
	fresh := wanted{hosts: hosts(t, "a.test", "c.test"), overlap: day}
	data := apply(nil, must(t, old, nil, epoch))
	data = apply(data, must(t, fresh, data, epoch))
	for _, w := range []wanted{old, fresh} {
		v := must(t, w, data, epoch)
		if v.change != nil {
			t.Fatalf("%q", v.reasons)
		}
	}
	// The name that nobody wants any more goes when the certificate is due.
	v := must(t, fresh, data, epoch.Add(250*day))
	if got := authority.HostsOf(v.next.Leaf); !slices.Equal(got, fresh.hosts) {
		t.Errorf("names %v", got)
	}
}

func TestNamesAreBounded(t *testing.T) {
	many := make([]string, authority.MaxHosts-4)
	for i := range many {
		many[i] = strings.Repeat("x", i/26+1) + string(rune('a'+i%26)) + ".test"
	}
	w := wanted{hosts: hosts(t, many...)}
	other := hosts(t, "1.test", "2.test", "3.test", "4.test", "5.test")
	if got := w.withNames(other); !slices.Equal(got, w.hosts) {
		t.Errorf("%d names", len(got))
	}
}

// A new authority is announced first and used later.
func TestOverlap(t *testing.T) {
	w := wanted{hosts: hosts(t, "a.test"), overlap: day}
	first := must(t, w, nil, epoch)
	data := apply(nil, first)
	delete(data, caKey)
	second := must(t, w, data, epoch.Add(day))
	data = apply(data, second)
	if len(second.trusted) != 2 || !second.next.Leaf.Equal(first.next.Leaf) || second.signer.Equal(first.signer) {
		t.Fatalf("%+v", second)
	}
	if v := must(t, w, data, epoch.Add(2*day-time.Second)); v.change != nil {
		t.Fatalf("too early: %q", v.reasons)
	}
	third := must(t, w, data, epoch.Add(2*day))
	data = apply(data, third)
	if len(third.trusted) != 2 || third.next.Leaf.CheckSignatureFrom(second.signer) != nil {
		t.Fatalf("%q", third.reasons)
	}
	// The old one leaves when it ends, without anybody writing for that.
	end := epoch.Add(authority.Life + time.Second)
	v := must(t, w, data, end)
	if len(v.trusted) != 1 || !v.trusted[0].Equal(second.signer) {
		t.Errorf("%d are trusted", len(v.trusted))
	}
	// Who does not want to wait removes tls.key too.
	delete(data, caKey)
	delete(data, servingKey)
	if v := must(t, w, data, epoch.Add(3*day)); v.next.Leaf.CheckSignatureFrom(v.signer) != nil || len(v.trusted) != 3 {
		t.Errorf("%q", v.reasons)
	}
}

func TestAuthoritiesAreBounded(t *testing.T) {
	w := wanted{hosts: hosts(t, "a.test"), overlap: day}
	data := apply(nil, must(t, w, nil, epoch))
	for range 2 * maxCerts {
		delete(data, caKey)
		v := must(t, w, data, epoch)
		data = apply(data, v)
		if len(v.trusted) > maxCerts || !v.trusted[0].Equal(v.signer) {
			t.Fatalf("%d are trusted", len(v.trusted))
		}
	}
}

// An authority in its last hours does not sign anew all the time.
func TestAuthorityAtItsEnd(t *testing.T) {
	w := wanted{hosts: hosts(t, "a.test"), overlap: day}
	data := apply(nil, must(t, w, nil, epoch))
	writes := 0
	for now := epoch; now.Before(epoch.Add(authority.Life)); {
		v := must(t, w, data, now)
		if v.change != nil {
			writes++
			data = apply(data, v)
		}
		if now.Before(epoch.Add(authority.Life - 5*day)) {
			now = now.Add(4 * day)
		} else {
			now = now.Add(15 * time.Minute)
		}
	}
	if writes < 10 || writes > 20 {
		t.Errorf("%d certificates in ten years", writes)
	}
}

func FuzzJudge(f *testing.F) {
	w := wanted{hosts: hosts(f, "a.test"), overlap: day}
	full := apply(nil, must(f, w, nil, epoch))
	f.Add(full[caKey], full[caCert], full[servingKey], full[servingCert])
	f.Add([]byte(nil), full[caCert], full[servingKey], full[servingCert])
	f.Add(full[caKey], full[caCert], []byte(nil), full[caCert])
	f.Fuzz(func(t *testing.T, key, ca, leafKey, leaf []byte) {
		data := map[string][]byte{caKey: key, caCert: ca, servingKey: leafKey, servingCert: leaf}
		v, err := w.judge(data, epoch)
		if err != nil {
			return
		}
		if len(key) > 0 && v.change[caKey] != nil {
			t.Fatal("a key was overwritten")
		}
		if v.next == nil || len(v.trusted) == 0 {
			t.Fatal("nothing to serve")
		}
		if again := must(t, w, apply(data, v), epoch); again.change != nil {
			t.Fatalf("not settled: %q", again.reasons)
		}
	})
}
