package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// Listen makes the broker's socket, in the place of one that an earlier broker left
// behind. The directory decides who can come near it: give it to broker and agent
// alone. User and group of the socket may connect; of the group it is because the
// agent is another user, and which one asks is looked at besides. The socket goes
// with the listener. Not to be called beside anything else that makes files.
func Listen(path string) (*net.UnixListener, error) {
	// A name is removed, never what a link of that name leads to.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier broker: %w", err)
	}
	// The mode is the umask's doing: a chmod after it could be led to another file
	// by whoever may write to the directory.
	old := syscall.Umask(0o117)
	defer syscall.Umask(old)
	l, err := net.ListenUnix(network, &net.UnixAddr{Net: network, Name: path})
	if err != nil {
		return nil, fmt.Errorf("make the broker's socket: %w; give --socket a path in a directory that broker and agent share", err)
	}
	return l, nil
}
