package standalone

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

func TestTokens(t *testing.T) {
	b := newBed(t)
	join, client := strings.TrimSpace(b.read(t, joinTokenFile)), strings.TrimSpace(b.read(t, clientTokenFile))
	if !b.CheckJoinToken(join) || !b.CheckClientToken(client) {
		t.Fatal("good token refused")
	}
	for _, bad := range []string{"", client, join + "x", join[:len(join)-1], strings.ToUpper(join), join + "\n", strings.Repeat("x", 1<<20)} {
		if b.CheckJoinToken(bad) {
			t.Errorf("join with %.60q", bad)
		}
	}
	if b.CheckClientToken(join) {
		t.Error("a join token is a client token")
	}
}

func TestTokensReplaced(t *testing.T) {
	b := newBed(t)
	path := b.path(joinTokenFile)
	old := strings.TrimSpace(b.read(t, joinTokenFile))
	next := strings.Repeat("n", 40)
	step := func(name string, wantOld, wantNext bool) {
		t.Helper()
		b.clock.add(time.Second)
		if b.CheckJoinToken(old) != wantOld || b.CheckJoinToken(next) != wantNext {
			t.Fatalf("%s: old %v, next %v; %v", name, b.CheckJoinToken(old), b.CheckJoinToken(next), b.reports)
		}
	}
	step("first", true, false)
	put(t, path, "# both\n"+old+"\n"+next+"\n")
	step("both", true, true)
	put(t, path, next)
	step("next", false, true)
	put(t, path, "")
	step("empty lets nobody in", false, false)
	put(t, path, next)
	step("next again", false, true)
	os.Chmod(path, 0o644)
	step("readable by others", false, false)
	os.Chmod(path, 0o600)
	step("private again", false, true)
	os.Remove(path)
	step("gone", false, false)
	if got := b.reports.String(); strings.Count(got, ";") != 2 || strings.Contains(got, next) {
		t.Fatalf("reports: %q", got)
	}
	b.reopen(t)
	if b.CheckJoinToken(next) || !b.CheckJoinToken(strings.TrimSpace(b.read(t, joinTokenFile))) {
		t.Fatal("restart did not make a new token")
	}
	if _, err := identity.LoadToken(path); err != nil {
		t.Fatal(err)
	}
}
