package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// write writes the layout NAME/ and an archive for each platform, and returns
// the digest of the index with all platforms.
func write(out, registry string, img image, all []built) (v1.Hash, error) {
	ref, err := name.NewTag(registry+"/"+img.name+":"+img.version, name.StrictValidation)
	if err != nil {
		return v1.Hash{}, err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range all {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: b.image, Descriptor: v1.Descriptor{Platform: &b.platform}})
	}
	annotated, ok := mutate.Annotations(index, img.labels()).(v1.ImageIndex)
	if !ok {
		return v1.Hash{}, errors.New("an index with annotations is no index")
	}
	dir := filepath.Join(out, img.name)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(out, 0o755)); err != nil { //nolint:gosec // images are no secret
		return v1.Hash{}, err
	}
	// One entry with a name, which is what tools expect to find in a layout.
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return v1.Hash{}, err
	}
	tag := map[string]string{"org.opencontainers.image.ref.name": ref.Name(), "io.containerd.image.name": ref.Name()}
	if err := path.AppendIndex(annotated, layout.WithAnnotations(tag)); err != nil {
		return v1.Hash{}, err
	}
	for _, b := range all {
		if err := tarball.WriteToFile(archivePath(out, img, b.platform), ref, b.image); err != nil {
			return v1.Hash{}, fmt.Errorf("archive for %s: %w", b.platform.String(), err)
		}
	}
	return annotated.Digest()
}

func archivePath(out string, img image, p v1.Platform) string {
	return filepath.Join(out, img.name+"-"+strings.ReplaceAll(p.String(), "/", "-")+".tar")
}
