//go:build !linux

package broker

import (
	"errors"
	"net"
)

// peerUID fails: only Linux has network namespaces that need a broker.
func peerUID(*net.UnixConn) (int, error) { return 0, errors.ErrUnsupported }
