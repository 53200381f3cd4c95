//go:build linux

package cluster

import (
	"context"
	"fmt"

	"github.com/culvert-k8s/culvert/test/lab"
)

// ToolboxImage is podserver with a shell and the usual small commands beside it,
// tar among them, which kubectl cp runs in the container. Nodes have it after
// ImportToolbox.
const ToolboxImage = "culvert.test/toolbox:1"

// busybox is where Debian's busybox-static puts the program.
const busybox = "/bin/busybox"

// ImportToolbox gives all nodes the ToolboxImage.
func (c *Cluster) ImportToolbox(ctx context.Context) error {
	program, err := lab.BuildPodServer(ctx, c.dir)
	if err != nil {
		return fmt.Errorf("import %s: %w", ToolboxImage, err)
	}
	links := map[string]string{}
	for _, name := range []string{
		"cat", "cp", "date", "dd", "echo", "env", "head", "ls", "mkdir", "nc", "nslookup", "rm", "sh", "sha256sum",
		"sleep", "stty", "tail", "tar", "test", "touch", "true", "tty", "wc", "wget", "yes",
	} {
		links["bin/"+name] = "busybox"
	}
	return c.Import(ctx, lab.Image{
		Ref: ToolboxImage, Program: program, Files: map[string]string{"bin/busybox": busybox}, Links: links,
	})
}
