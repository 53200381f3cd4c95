//go:build !linux

package netns

import (
	"context"
	"net"
)

// Handle is an open network namespace, which only Linux has.
type Handle struct{}

// Open returns ErrUnsupported.
func Open(string) (*Handle, error) { return nil, ErrUnsupported }

// OpenHost returns ErrUnsupported.
func OpenHost() (*Handle, error) { return nil, ErrUnsupported }

// ID is the zero ID.
func (*Handle) ID() ID { return ID{} }

// IsAt is false.
func (*Handle) IsAt(string) bool { return false }

// Close does nothing.
func (*Handle) Close() error { return nil }

// Dial returns ErrUnsupported.
func (*Dialer) Dial(context.Context, *Handle, uint16) (*Conn, error) { return nil, ErrUnsupported }

// Adopt returns ErrUnsupported.
func Adopt(int) (*Conn, error) { return nil, ErrUnsupported }

// Conn stands in for the Conn of Linux, so that its users compile. There is never one.
type Conn struct{ *net.TCPConn }
