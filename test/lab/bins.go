//go:build linux

package lab

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Binaries are the paths of the programs under test.
type Binaries struct {
	Client, Relay, Agent string
	// PodServer is the program that runs in pods; it is static and never built
	// with the race detector.
	PodServer string
}

// Build builds the product's programs and podserver into .cache of the module,
// with the race detector if the caller has it. A build that is up to date takes
// a second or less, so every fixture may call it.
func Build(ctx context.Context) (*Binaries, error) {
	dir, unlock, err := buildDir()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := noteSources(); err != nil {
		return nil, err
	}
	args := []string{"-o", dir + string(filepath.Separator)}
	if raceDetector {
		args = append([]string{"-race"}, args...)
	}
	if err := goBuild(ctx, append(args, "./cmd/...")...); err != nil {
		return nil, err
	}
	b := &Binaries{
		Client: filepath.Join(dir, "culvert"),
		Relay:  filepath.Join(dir, "culvert-relay"),
		Agent:  filepath.Join(dir, "culvert-agent"),
	}
	b.PodServer, err = BuildPodServer(ctx, dir)
	return b, err
}

// noteSources reads the directories of the module's sources. go test takes a
// result from its cache unless a file that the test itself looked at changed, and
// what go build looks at does not count: without this, a test of the programs
// would stay green while they change.
func noteSources() error {
	root, err := ModuleDir()
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || path == root {
			return err
		}
		hidden := strings.HasPrefix(entry.Name(), ".")
		if hidden || entry.Name() == "artifacts" || path == filepath.Join(root, "bin") {
			return fs.SkipDir
		}
		return nil
	})
}

// buildDir makes the directory of the binaries and locks it: test binaries of
// several packages run side by side.
func buildDir() (dir string, unlock func(), err error) {
	root, err := ModuleDir()
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(root, ".cache", "lab", "bin")
	if raceDetector {
		dir += "-race"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("make build directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", nil, fmt.Errorf("lock build directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		lock.Close()
		return "", nil, fmt.Errorf("lock build directory: %w", err)
	}
	return dir, func() { lock.Close() }, nil
}

// goBuild runs go build in the module's root.
func goBuild(ctx context.Context, args ...string) error {
	root, err := ModuleDir()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-buildvcs=false"}, args...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %v: %w\n%s", args, err, out)
	}
	return nil
}
