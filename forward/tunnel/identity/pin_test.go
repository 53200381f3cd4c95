package identity

import (
	"strings"
	"testing"
)

func TestParsePin(t *testing.T) {
	digits := strings.Repeat("0aF", 21) + "1"
	if p, err := ParsePin("sha256:" + digits); err != nil || p.String() != "sha256:"+strings.ToLower(digits) {
		t.Fatal(p, err)
	}
	for _, s := range []string{"", "sha256:", digits, "SHA256:" + digits, "sha1:" + digits, "sha256:" + digits[1:],
		"sha256:" + digits + "0", "sha256:" + digits[1:] + "g", " sha256:" + digits, "sha256:" + digits + "\n", "sha256:" + digits[2:] + "::"} {
		if p, err := ParsePin(s); err == nil || p != (Pin{}) {
			t.Errorf("%q: %v, %v", s, p, err)
		}
	}
}

func TestPinNamesTheKey(t *testing.T) {
	ca := newPKI(t, nil)
	again := create(t, ca.cert, ca.cert, ca.key, ca.key)
	if !PinOf(ca.cert).Matches(again) {
		t.Fatal("a new certificate for the same key has another pin")
	}
	if PinOf(ca.cert).Matches(newPKI(t, nil).cert) {
		t.Fatal("two keys have one pin")
	}
	byKey, err := PinOfKey(ca.key.Public())
	if err != nil || byKey != PinOf(ca.cert) {
		t.Fatal(byKey, err)
	}
	if _, err := PinOfKey("no key"); err == nil {
		t.Fatal("a string has a pin")
	}
}

func TestPinOfFile(t *testing.T) {
	dir := t.TempDir()
	a, b := newPKI(t, nil), newPKI(t, nil)
	one := put(t, dir, "one", certsPEM(a.cert.Raw))
	if p, err := PinOfFile(one); err != nil || p.String() != a.pin() {
		t.Fatal(p, err)
	}
	for name, content := range map[string][]byte{
		"two":   certsPEM(a.cert.Raw, b.cert.Raw),
		"leaf":  certsPEM(a.server("x").Leaf.Raw),
		"empty": nil,
		"key":   keyPEM(t, a.key),
		"junk":  certsPEM([]byte("junk")),
	} {
		if _, err := PinOfFile(put(t, dir, name, content)); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
	if _, err := PinOfFile(dir); err == nil {
		t.Error("directory accepted")
	}
}

func FuzzParsePin(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("0", 64))
	f.Add("sha256:")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePin(s)
		if err != nil {
			return
		}
		if p.String() != strings.ToLower(s) {
			t.Fatalf("%q became %q", s, p)
		}
		if again, err := ParsePin(p.String()); err != nil || again != p {
			t.Fatalf("%q does not come back: %v", p, err)
		}
	})
}
