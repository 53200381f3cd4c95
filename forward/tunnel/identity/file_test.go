package identity

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, want := range []string{"first", "second, longer", ""} {
		if err := WriteFile(path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); string(b) != want || err != nil {
			t.Fatalf("%q, %v", b, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v", info.Mode())
	}
	onlyFiles(t, dir, "f")
	if err := WriteFile(filepath.Join(dir, "none", "f"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	// A name that cannot be replaced leaves nothing behind.
	if err := os.MkdirAll(filepath.Join(dir, "d", "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if WriteFile(filepath.Join(dir, "d"), []byte("x")) == nil {
		t.Fatal("replaced a directory")
	}
	onlyFiles(t, dir, "d", "f")
}

func onlyFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(want) {
		t.Fatalf("%v, %v, want %v", entries, err, want)
	}
	for i, e := range entries {
		if e.Name() != want[i] {
			t.Fatalf("%v, want %v", entries, want)
		}
	}
}

// A process that dies between the temporary file and the rename leaves the old
// contents, and what it left can be removed.
func TestWriteFileInterrupted(t *testing.T) {
	dir := t.TempDir()
	path := put(t, dir, "f", []byte("old"))
	if _, err := writeTemp(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "old" {
		t.Fatalf("%q", b)
	}
	if err := RemoveTemps(dir); err != nil {
		t.Fatal(err)
	}
	onlyFiles(t, dir, "f")
}

func TestCreateFileOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 8 {
		wg.Go(func() {
			switch err := createFile(path, []byte{byte(i)}); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d winners", won.Load())
	}
	onlyFiles(t, dir, "f")
}

func TestCheckPrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes say nothing on windows")
	}
	path := put(t, t.TempDir(), "f", nil)
	for mode, ok := range map[fs.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o610: false, 0o622: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckPrivate(info); (err == nil) != ok {
			t.Errorf("%04o: %v", mode, err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file to another user")
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.Chown(path, 12345, -1)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if CheckPrivate(info) == nil {
		t.Error("file of another user accepted")
	}
}
