package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// TempPrefix begins the name of every file that WriteFile has not finished. One
// that is found later was left by a process that died and may be removed.
const TempPrefix = ".tmp-"

// WriteFile replaces a file so that a crash at any moment leaves the old or the
// new contents and never a part: temporary file in the same directory, sync,
// rename, sync of the directory. The file is readable by its owner only. When it
// returns nil the contents survive a power cut.
func WriteFile(path string, data []byte) error {
	tmp, err := writeTemp(path, data)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// createFile is WriteFile for a file that must not exist yet; fs.ErrExist if it
// does. Of several that try at once exactly one succeeds.
func createFile(path string, data []byte) error {
	tmp, err := writeTemp(path, data)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := os.Link(tmp, path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return err
		}
		// A file system without hard links: the check and the rename are two
		// steps, which is the best it offers.
		if _, serr := os.Lstat(path); serr == nil {
			return fmt.Errorf("create %s: %w", path, fs.ErrExist)
		}
		if err := os.Rename(tmp, path); err != nil {
			return err
		}
	}
	return SyncDir(filepath.Dir(path))
}

// writeTemp leaves a complete, synced file beside path and returns its name.
func writeTemp(path string, data []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), TempPrefix+"*") // mode 0600
	if err != nil {
		return "", err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	return f.Name(), nil
}

// SyncDir makes the names in a directory survive a power cut. Windows has no
// such call and does nothing.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// RemoveTemps removes what WriteFile left unfinished in a directory. The caller
// makes sure that nobody writes there at the same time.
func RemoveTemps(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), TempPrefix) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// CheckPrivate refuses a file or directory that somebody other than the user of
// this process owns, or that others may read or write. On Windows, where modes
// say nothing, it accepts all.
func CheckPrivate(info fs.FileInfo) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	if open := info.Mode().Perm() & 0o077; open != 0 {
		want := "600"
		if info.IsDir() {
			want = "700"
		}
		return fmt.Errorf("mode %04o lets others in: make sure nobody read it, then chmod %s", info.Mode().Perm(), want)
	}
	return checkOwner(info)
}
