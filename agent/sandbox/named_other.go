//go:build !linux

package sandbox

import (
	"errors"
	"fmt"
)

// identify fails: only Linux has network namespaces.
func identify(path string) (identity, error) {
	return identity{}, fmt.Errorf("identify %s: %w", path, errors.ErrUnsupported)
}
