package sandbox

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// nsfsMagic is the type of the file system that namespaces are files of.
const nsfsMagic = 0x6e736673

// identify says which namespace is mounted at path.
func identify(path string) (identity, error) {
	var volume syscall.Statfs_t
	if err := syscall.Statfs(path, &volume); err != nil {
		return identity{}, fmt.Errorf("identify %s: %w", path, err)
	}
	if volume.Type != nsfsMagic {
		return identity{}, fmt.Errorf("identify %s: %w", path, errNotNamespace)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return identity{}, fmt.Errorf("identify %s: %w", path, err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, fmt.Errorf("identify %s: %w", path, errNotNamespace)
	}
	// The kernel sets the times of the inode when the namespace is mounted, and
	// the mount keeps them.
	return identity{
		dev: uint64(stat.Dev), ino: stat.Ino, created: time.Unix(stat.Ctim.Unix()).UTC(),
	}, nil
}
