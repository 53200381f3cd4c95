package test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRulesNameTests holds docs/rules.md against the tree: a rule that names a
// test nobody runs is not held by anything.
func TestRulesNameTests(t *testing.T) {
	root := ".."
	page, err := os.ReadFile(filepath.Join(root, "docs", "rules.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if err == nil && strings.HasPrefix(d.Name(), ".") && path != root { // .git, .cache
				return fs.SkipDir
			}
			return err
		}
		switch {
		case strings.HasSuffix(path, ".txtar"):
			known[filepath.Base(path)] = true
		case strings.HasSuffix(path, "_test.go"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range function.FindAllSubmatch(text, -1) {
				known[string(m[1])] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`|([a-z0-9-]+\\.txtar)").FindAllStringSubmatch(string(page), -1)
	if len(names) < 50 {
		t.Fatalf("docs/rules.md names %d tests, that cannot be all", len(names))
	}
	for _, m := range names {
		if name := m[1] + m[2]; !known[name] {
			t.Errorf("docs/rules.md names %s, which does not exist", name)
		}
	}
}

// TestFuzzTargets holds the list of the Makefile: a target that is misspelled there
// would be fuzzed for less time than it was meant to.
func TestFuzzTargets(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join("..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(strings.ReplaceAll(string(makefile), "\\\n", " "), "FUZZNETWORK := ")
	list, _, _ = strings.Cut(list, "\n")
	names := strings.Fields(list)
	if len(names) < 10 {
		t.Fatalf("%d targets face the network, that cannot be all", len(names))
	}
	known := make(map[string]bool)
	for _, f := range readSource(t) {
		if !f.isTest() {
			continue
		}
		text, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(f.path())))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Fuzz[A-Za-z0-9_]+)\(`).FindAllStringSubmatch(string(text), -1) {
			known[m[1]] = true
		}
	}
	for _, name := range names {
		if !known[name] {
			t.Errorf("the Makefile names %s, which does not exist", name)
		}
	}
}
