//go:build linux

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// TB is the part of testing.TB that the lab uses, so that programs which are not
// tests can use the lab without package testing.
type TB interface {
	Helper()
	Name() string
	Cleanup(func())
	Failed() bool
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Logf(format string, args ...any)
}

// errMounted reports a mount below a directory that is to be removed.
var errMounted = errors.New("a file system is mounted there")

// unsafeName is what may not stand in the name of an artefact directory.
var unsafeName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// RequireRoot skips the test when it does not run as root.
func RequireRoot(t TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("makes network namespaces, which needs root")
	}
}

// ModuleDir returns the root directory of the module that the working directory
// is in.
func ModuleDir() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find module: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if file == "" || file == os.DevNull {
		return "", fmt.Errorf("find module: %w", os.ErrNotExist)
	}
	return filepath.Dir(file), nil
}

// Artifacts makes test/artifacts/<test name>, empty, for what the test leaves
// behind. It is removed after a test that passed and kept after one that failed.
func Artifacts(t TB) string {
	t.Helper()
	root, err := ModuleDir()
	if err != nil {
		t.Fatalf("make artefact directory: %v", err)
	}
	dir := filepath.Join(root, "test", "artifacts", unsafeName.ReplaceAllString(t.Name(), "_"))
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		t.Fatalf("make artefact directory: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("artefacts: %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove artefacts: %v", err)
		}
	})
	return dir
}

// ForTest builds a network of the named hosts that ends with the test, with its
// artefacts in the test's directory. It skips the test without root.
func ForTest(t TB, hosts ...string) *Network {
	t.Helper()
	RequireRoot(t)
	ctx, cancel := setupContext()
	defer cancel()
	n, err := New(ctx, Config{Hosts: hosts, Artifacts: Artifacts(t)})
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close lab network: %v", err)
		}
	})
	return n
}

// removeTree removes dir unless something is mounted below it.
func removeTree(dir string) error {
	var top unix.Stat_t
	if err := unix.Lstat(dir, &top); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if err == nil && st.Dev != top.Dev {
			err = errMounted
		}
		if err != nil {
			return fmt.Errorf("remove %s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
