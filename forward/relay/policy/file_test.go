package policy

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	good   = "rules: [{name: one, action: deny}]"
	better = "rules: [{name: two, action: deny}]"
)

// watched is a file in a bubble of time of its own.
type watched struct {
	t    *testing.T
	dir  string
	f    *File
	mu   sync.Mutex
	said []string
}

func (w *watched) note(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, s)
}

func (w *watched) heard() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.said, "|")
}

func (w *watched) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// rule returns the name of the rule in force.
func (w *watched) rule() string {
	d := w.f.Policy().Decide(&Request{Port: 80})
	return d.Rule
}

func (w *watched) metric(line string) {
	w.t.Helper()
	var b bytes.Buffer
	w.f.WriteMetrics(&b)
	if !strings.Contains(b.String(), line) {
		w.t.Errorf("no %q in\n%s", line, b.String())
	}
}

// following runs test beside a File that is followed.
func following(t *testing.T, test func(*watched)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &watched{t: t, dir: dir}
		w.write("policy.yaml", good)
		var err error
		w.f, err = Open(FileConfig{
			Path:   filepath.Join(dir, "policy.yaml"),
			Loaded: func(p *Policy) { w.note("loaded") },
			Broken: func(err error) { w.note(err.Error()) },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.f.Run(ctx) }()
		test(w)
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func settle() {
	time.Sleep(3 * time.Second)
	synctest.Wait()
}

func TestFileIsFollowed(t *testing.T) {
	following(t, func(w *watched) {
		settle()
		if w.rule() != "one" || w.heard() != "" {
			t.Fatalf("%q in force, heard %q", w.rule(), w.heard())
		}
		w.write("policy.yaml", better)
		settle()
		if w.rule() != "two" || w.heard() != "loaded" {
			t.Errorf("%q in force, heard %q", w.rule(), w.heard())
		}
		w.metric(`culvert_relay_policy_loads_total{result="ok"} 2`)
		w.metric(`culvert_relay_policy_broken 0`)
		w.metric(`culvert_relay_policy_rules 1`)
	})
}

// A file that is broken, gone, or a pipe leaves the rules that were good in force,
// is counted and told once for each reason.
func TestBrokenFileLeavesTheOldRules(t *testing.T) {
	following(t, func(w *watched) {
		w.write("policy.yaml", "rules:\n- action: refuse\n")
		settle()
		settle()
		if w.rule() != "one" || strings.Count(w.heard(), "line 2: action") != 1 || !strings.Contains(w.heard(), "policy.yaml") {
			t.Errorf("%q in force, heard %q", w.rule(), w.heard())
		}
		w.metric(`culvert_relay_policy_loads_total{result="broken"} 1`)
		w.metric(`culvert_relay_policy_broken 1`)
		if err := os.Remove(filepath.Join(w.dir, "policy.yaml")); err != nil {
			t.Fatal(err)
		}
		settle()
		if w.rule() != "one" || !strings.Contains(w.heard(), "no such file") {
			t.Errorf("%q in force, heard %q", w.rule(), w.heard())
		}
		w.write("policy.yaml", better)
		settle()
		if w.rule() != "two" || !strings.HasSuffix(w.heard(), "|loaded") {
			t.Errorf("%q in force, heard %q", w.rule(), w.heard())
		}
		w.metric(`culvert_relay_policy_broken 0`)
	})
}

// What is written in place may be good YAML at every line: half of it is never in
// force while it grows.
func TestHalfAFileIsNotInForce(t *testing.T) {
	following(t, func(w *watched) {
		settle()
		text := "rules:\n"
		for range 10 {
			text += "- {users: [nobody], action: deny}\n"
			w.write("policy.yaml", text)
			time.Sleep(time.Second)
			synctest.Wait()
			if w.rule() != "one" {
				t.Fatalf("half a file is in force")
			}
		}
		settle()
		if w.f.Policy().Len() != 10 {
			t.Errorf("%d rules", w.f.Policy().Len())
		}
	})
}

// Kubelet replaces a ConfigMap by turning a symbolic link.
func TestLinkThatTurns(t *testing.T) {
	dir := t.TempDir()
	for version, text := range map[string]string{"..v1": good, "..v2": better} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, version, "policy.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	turn := func(to string) {
		if err := os.Symlink(to, filepath.Join(dir, "..new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	turn("..v1")
	if err := os.Symlink("..data/policy.yaml", filepath.Join(dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		f, err := Open(FileConfig{Path: filepath.Join(dir, "policy.yaml")})
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		turn("..v2")
		settle()
		if d := f.Policy().Decide(&Request{Port: 80}); d.Rule != "two" {
			t.Errorf("%q in force", d.Rule)
		}
		end()
		<-done
	})
}

func TestOpenRefusesABrokenFile(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "broken": "rules: [", "large": strings.Repeat(" ", MaxFile+1)} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(FileConfig{Path: file}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(FileConfig{Path: filepath.Join(dir, "none")}); err == nil {
		t.Error("no file was taken for a policy")
	}
	if _, err := Open(FileConfig{Path: dir}); err == nil {
		t.Error("a directory was taken for a policy")
	}
}
