//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-k8s/culvert/test/lab"
)

// Where relay and agents offer profiles, with -profile.
const (
	relayDebug = "127.0.0.1:7482"
	agentDebug = "127.0.0.1:7483"
)

// profiles takes processor profiles of relay and agent while a way is measured.
type profiles struct {
	dir string
}

// around runs do, and takes profiles of its middle if the way leads through Culvert.
func (p *profiles) around(ctx context.Context, s *scene, name string, do func() ([]reading, error)) ([]reading, error) {
	if p == nil || s.warm || s.way.stock || s.way.name == wayLimit {
		return do()
	}
	seconds := max(int(s.scale.span.Seconds()), 1)
	var g errgroup.Group
	for _, at := range []struct {
		host        *lab.Host
		debug, name string
	}{
		{s.rig.relay, relayDebug, "relay"},
		{s.rig.nodes[nodeOf(s.to)].host, agentDebug, "agent"},
	} {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+patience)
			defer cancel()
			code, body, err := at.host.HTTPGet(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", at.debug, seconds))
			if err == nil && code != http.StatusOK {
				err = fmt.Errorf("profile of %s: status %d: %s", at.name, code, body)
			}
			if err != nil {
				return err
			}
			file := strings.NewReplacer(" ", "-", ",", "").Replace(name) + "." + s.way.name + "." + at.name + ".pprof"
			return os.WriteFile(filepath.Join(p.dir, file), []byte(body), 0o644)
		})
	}
	got, err := do()
	if failed := g.Wait(); err == nil {
		err = failed
	}
	return got, err
}
