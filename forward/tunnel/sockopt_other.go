//go:build !linux

package tunnel

import (
	"net"
	"time"
)

func tuneSocket(net.Conn) {}

func roundTrip(net.Conn) time.Duration { return 0 }

func unacked(net.Conn) (int64, bool) { return 0, false }
