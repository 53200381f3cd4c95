//go:build !linux

package kubectl

import "net"

func tuneSocket(net.Conn) {}

func tcpRetries(net.Conn) (retries int, known bool) { return 0, false }
