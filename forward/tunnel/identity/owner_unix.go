//go:build unix

package identity

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

func checkOwner(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if me := os.Geteuid(); uint32(me) != st.Uid {
		return fmt.Errorf("owned by user %d and this process runs as user %d: chown it or run as its owner", st.Uid, me)
	}
	return nil
}
