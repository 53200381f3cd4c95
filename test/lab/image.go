//go:build linux

package lab

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// Image is a container image that holds static programs and nothing else. It is
// made without a container engine and without a registry.
type Image struct {
	// Ref is its full name with a tag, such as "culvert.test/pause:1". Required.
	Ref string
	// Program is the file that becomes /<base name> in the image. Required.
	Program string
	// Args are put behind the program in the entry point.
	Args []string
	// Files are further programs: where they are in the image, without the leading
	// slash, and where to read them.
	Files map[string]string
	// Links are symbolic links in the image, and what they point to.
	Links map[string]string
}

// descriptor, as the OCI image format defines it.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

const (
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
)

// WriteArchive writes the image as a tar of an OCI image layout, which containerd
// and others import.
func (i Image) WriteArchive(w io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("write image %s: %w", i.Ref, err)
	}
	archive := &layout{tar: tar.NewWriter(w)}
	layerDesc := archive.blob(mediaLayer, layer)
	configDesc := archive.json(mediaConfig, map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": append([]string{"/" + filepath.Base(i.Program)}, i.Args...)},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{layerDesc.Digest}},
	})
	manifest := archive.json(mediaManifest, map[string]any{
		"schemaVersion": 2, "mediaType": mediaManifest, "config": configDesc, "layers": []descriptor{layerDesc},
	})
	manifest.Annotations = map[string]string{"io.containerd.image.name": i.Ref}
	archive.index(manifest)
	if err := archive.close(); err != nil {
		return fmt.Errorf("write image %s: %w", i.Ref, err)
	}
	return nil
}

// layer is a tar with the program in the root directory, and what else there is.
func (i Image) layer() ([]byte, error) {
	files := map[string]string{filepath.Base(i.Program): i.Program}
	maps.Copy(files, i.Files)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		program, err := os.ReadFile(files[name])
		if err != nil {
			return nil, err
		}
		if err := addFile(w, name, 0o755, program); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.Links)) {
		link := &tar.Header{Name: name, Linkname: i.Links[name], Mode: 0o777, Typeflag: tar.TypeSymlink}
		if err := w.WriteHeader(link); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

// layout writes an OCI image layout and remembers the first error.
type layout struct {
	tar *tar.Writer
	err error
}

func (l *layout) file(name string, content []byte) {
	if l.err == nil {
		l.err = addFile(l.tar, name, 0o644, content)
	}
}

func (l *layout) blob(mediaType string, content []byte) descriptor {
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	l.file("blobs/sha256/"+sum, content)
	return descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: len(content)}
}

func (l *layout) marshal(v any) []byte {
	content, err := json.Marshal(v)
	if l.err == nil {
		l.err = err
	}
	return content
}

func (l *layout) json(mediaType string, v any) descriptor {
	return l.blob(mediaType, l.marshal(v))
}

func (l *layout) index(manifest descriptor) {
	l.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	l.file("index.json", l.marshal(map[string]any{
		"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []descriptor{manifest},
	}))
}

func (l *layout) close() error {
	if l.err != nil {
		return l.err
	}
	return l.tar.Close()
}

func addFile(w *tar.Writer, name string, mode int64, content []byte) error {
	header := &tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
