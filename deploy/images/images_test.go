package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const registry = "registry.example.com/culvert"

// fake builds an image of bytes that are no program.
func fake(t *testing.T, img image) []built {
	t.Helper()
	var all []built
	for _, arch := range []string{"amd64", "arm64"} {
		p := v1.Platform{OS: "linux", Architecture: arch}
		one, err := img.build([]byte("program for "+arch), p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, built{p, one})
	}
	return all
}

// sums are the digests of all files below a directory.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		sum := sha256.Sum256(content)
		all[strings.TrimPrefix(path, dir)] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestImages reads with a library what was written, and writes it again.
func TestImages(t *testing.T) {
	for _, img := range images() {
		t.Run(img.name, func(t *testing.T) {
			img.version, img.revision = "1.2.3", "0123abc"
			dir, again := t.TempDir(), t.TempDir()
			digest, err := write(dir, registry, img, fake(t, img))
			if err != nil {
				t.Fatal(err)
			}
			second, err := write(again, registry, img, fake(t, img))
			if err != nil || second != digest || !maps.Equal(sums(t, dir), sums(t, again)) {
				t.Errorf("not reproducible: %v and %v, %v", digest, second, err)
			}
			if _, err := write(again, registry, img, fake(t, img)); err != nil || !maps.Equal(sums(t, dir), sums(t, again)) {
				t.Errorf("written over itself it differs: %v", err)
			}
			checkLayout(t, filepath.Join(dir, img.name), img, digest)
			for _, arch := range []string{"amd64", "arm64"} {
				one, err := tarball.ImageFromPath(filepath.Join(dir, img.name+"-linux-"+arch+".tar"), nil)
				if err != nil {
					t.Fatal(err)
				}
				checkImage(t, one, img, arch)
			}
		})
	}
}

func checkLayout(t *testing.T, dir string, img image, digest v1.Hash) {
	t.Helper()
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(top); err != nil {
		t.Error(err)
	}
	m, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 1 || m.Manifests[0].Digest != digest ||
		m.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != registry+"/"+img.name+":1.2.3" {
		t.Fatalf("the layout has %+v, want one index %v with a name", m.Manifests, digest)
	}
	index, err := top.ImageIndex(digest)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = index.IndexManifest(); err != nil || len(m.Manifests) != 2 {
		t.Fatalf("%d images, %v", len(m.Manifests), err)
	}
	for _, d := range m.Manifests {
		one, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, one, img, d.Platform.Architecture)
	}
}

// checkImage checks everything that an image has.
func checkImage(t *testing.T, one v1.Image, img image, arch string) {
	t.Helper()
	if err := validate.Image(one); err != nil {
		t.Error(err)
	}
	config, err := one.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	user := map[string]string{"culvert-agent": "0:0", "culvert-relay": "65532:65532"}[img.name]
	c := config.Config
	if config.OS != "linux" || config.Architecture != arch || !config.Created.Equal(epoch()) ||
		c.User != user || !slices.Equal(c.Entrypoint, []string{"/" + img.name}) || c.Cmd != nil || c.Env != nil ||
		c.ExposedPorts != nil || c.Volumes != nil || c.Labels["org.opencontainers.image.version"] != "1.2.3" ||
		c.Labels["org.opencontainers.image.revision"] != "0123abc" {
		t.Errorf("config %+v", config)
	}
	want := []string{
		img.name + " -rwxr-xr-x 0:0 program for " + arch,
		"etc/ drwxr-xr-x 0:0 ",
		"etc/group -rw-r--r-- 0:0 root:x:0:\nnonroot:x:65532:\n",
		"etc/passwd -rw-r--r-- 0:0 root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
		"run/ drwxr-xr-x 0:0 ",
		"var/ drwxr-xr-x 0:0 ",
		"var/run -> ../run Lrwxrwxrwx 0:0 ",
	}
	if got := contents(t, one); !slices.Equal(got, want) {
		t.Errorf("files %q\nwant  %q", got, want)
	}
}

func contents(t *testing.T, one v1.Image) []string {
	t.Helper()
	layers, err := one.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var files []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(epoch()) {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		name := h.Name
		if h.Linkname != "" {
			name += " -> " + h.Linkname
		}
		files = append(files, fmt.Sprintf("%s %v %d:%d %s", name, h.FileInfo().Mode(), h.Uid, h.Gid, content))
	}
}

func TestArguments(t *testing.T) {
	for name, args := range map[string][]string{
		"nothing":       nil,
		"no version":    {"-out", t.TempDir()},
		"surprise":      {"-out", t.TempDir(), "-version", "1", "x"},
		"bad platform":  {"-out", t.TempDir(), "-version", "1", "-platforms", "a/b/c/d"},
		"no such flag":  {"-nonsense"},
		"no such place": {"-out", t.TempDir(), "-version", "1", "-source", "nowhere"},
	} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestProgram builds the real agent twice from a cold start of the linker.
func TestProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	b := builder{source: "../..", version: "1.2.3"}
	p := v1.Platform{OS: "linux", Architecture: "amd64"}
	one, err := b.program(t.Context(), "culvert-agent", p)
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.program(t.Context(), "culvert-agent", p)
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("two builds differ: %v", err)
	}
	if !bytes.Contains(one, []byte("1.2.3")) || bytes.Contains(one, []byte("/deploy/images")) {
		t.Error("the version is missing, or a path of this machine is in it")
	}
}
