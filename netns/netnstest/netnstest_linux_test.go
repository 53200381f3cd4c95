package netnstest_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/netns/netnstest"
)

func TestNS(t *testing.T) {
	var path string
	t.Run("lives", func(t *testing.T) {
		path = filepath.Join(t.TempDir(), "web")
		ns := netnstest.NewAt(t, path)
		if ns.Path() != path || ns.Name() != "web" {
			t.Errorf("Path, Name = %q, %q", ns.Path(), ns.Name())
		}
		for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
			l := ns.Listen("tcp", addr)
			if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
				c.Close()
				t.Errorf("%v is reached from outside", l.Addr())
			}
			ns.Do(func() {
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				c.Close()
			})
		}
		ran := false
		ns.Do(func() { ran = true })
		if !ran {
			t.Error("Do returned before its func")
		}
		ns.Delete()
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("after Delete: %v", err)
		}
		ns.Delete()
		ns.Do(func() {}) // still there for who holds it
		if other := netnstest.New(t); other.Path() == path {
			t.Error("two namespaces at one path")
		} else {
			path = other.Path()
		}
	})
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || (path != "" && strings.Contains(string(mounts), path)) {
		t.Errorf("%s is still mounted, %v", path, err)
	}
}
