package standalone

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

const maxFile = 64 << 10

// makeDir makes a directory that only its owner can enter, or checks one.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// The name of a new directory must survive a power cut too. A parent that may
	// not be opened was there before and is not ours.
	if err := identity.SyncDir(filepath.Dir(dir)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if err := identity.CheckPrivate(info); err != nil {
		return fmt.Errorf("directory %s: %w", dir, err)
	}
	return nil
}

// checkFiles refuses any file of the state that somebody else could have read or
// written: then what it holds proves nothing any more.
func (s *State) checkFiles() error {
	for _, name := range []string{caFile, servingFile, joinTokenFile, clientTokenFile, caCertFile, caPinFile} {
		path := filepath.Join(s.dir, name)
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := private(path, info); err != nil {
			return err
		}
	}
	return nil
}

func private(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if err := identity.CheckPrivate(info); err != nil {
		return fmt.Errorf("file %s: %w", path, err)
	}
	return nil
}

// readPrivate reads a file of the state, which is small and nobody else's.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if err := private(path, info); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("read %s: longer than %d bytes", path, maxFile)
	}
	return b, nil
}
