package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image is what differs between the images.
type image struct {
	name        string // of the image, of the program and of its package in cmd
	title, text string
	user        string // UID:GID
	version     string
	revision    string
}

// images are all that is shipped.
func images() []image {
	return []image{
		{
			// Root, because a capability that is added to a container reaches only
			// UID 0, and because the socket of the container runtime is root's.
			name: "culvert-agent", title: "Culvert agent", user: "0:0",
			text: "Node end of Culvert: dials the localhost of pods for forwarded connections",
		},
		{
			name: "culvert-relay", title: "Culvert relay", user: "65532:65532",
			text: "Middle of Culvert: authenticates, authorizes and joins forwarded connections",
		},
	}
}

// labels are those of the OCI image specification.
func (i image) labels() map[string]string {
	l := map[string]string{
		"org.opencontainers.image.title":       i.title,
		"org.opencontainers.image.description": i.text,
		"org.opencontainers.image.source":      "https://github.com/culvert-k8s/culvert",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     i.version,
	}
	if i.revision != "" {
		l["org.opencontainers.image.revision"] = i.revision
	}
	return l
}

// epoch is when every file and image was made: a date that tells nothing, so
// that the same content has the same digest.
func epoch() time.Time { return time.Unix(0, 0).UTC() }

// build makes the image of a program for one platform.
func (i image) build(program []byte, platform v1.Platform) (v1.Image, error) {
	files, err := i.layer(program)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{
		Layer:   layer,
		History: v1.History{CreatedBy: "deploy/images", Created: v1.Time{Time: epoch()}},
	})
	if err != nil {
		return nil, err
	}
	was, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config := was.DeepCopy()
	config.Created = v1.Time{Time: epoch()}
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Config = v1.Config{
		Entrypoint: []string{"/" + i.name},
		User:       i.user,
		WorkingDir: "/",
		Labels:     i.labels(),
	}
	return mutate.ConfigFile(img, config)
}

// layer is a tar with all files of the image. There are no certificates in it:
// relay and agent trust only what they are given, never a system's roots. An
// HTTPS proxy of the agent's is the exception; its authority is mounted, and
// named by SSL_CERT_FILE.
func (i image) layer(program []byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		header  tar.Header
		content []byte
	}{
		{tar.Header{Name: i.name, Mode: 0o755, Typeflag: tar.TypeReg}, program},
		{tar.Header{Name: "etc/", Mode: 0o755, Typeflag: tar.TypeDir}, nil},
		{tar.Header{Name: "etc/group", Mode: 0o644, Typeflag: tar.TypeReg}, []byte("root:x:0:\nnonroot:x:65532:\n")},
		{tar.Header{Name: "etc/passwd", Mode: 0o644, Typeflag: tar.TypeReg}, []byte(
			"root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n")},
		{tar.Header{Name: "run/", Mode: 0o755, Typeflag: tar.TypeDir}, nil},
		{tar.Header{Name: "var/", Mode: 0o755, Typeflag: tar.TypeDir}, nil},
		// Container runtimes name the namespaces of pods /var/run/netns/..., as
		// they are found on a node. They are mounted at /run/netns.
		{tar.Header{Name: "var/run", Mode: 0o777, Typeflag: tar.TypeSymlink, Linkname: "../run"}, nil},
	} {
		f.header.Size = int64(len(f.content))
		f.header.ModTime = epoch()
		f.header.Format = tar.FormatPAX
		if err := w.WriteHeader(&f.header); err != nil {
			return nil, fmt.Errorf("layer of %s: %w", i.name, err)
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, fmt.Errorf("layer of %s: %w", i.name, err)
		}
	}
	return b.Bytes(), w.Close()
}
