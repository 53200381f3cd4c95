package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// builder builds the programs.
type builder struct {
	source  string // directory of the product's module
	version string
}

// built is an image for one platform.
type built struct {
	platform v1.Platform
	image    v1.Image
}

// all builds an image for every platform.
func (b builder) all(ctx context.Context, img image, platforms []string) ([]built, error) {
	var all []built
	for _, name := range platforms {
		platform, err := v1.ParsePlatform(name)
		if err != nil {
			return nil, fmt.Errorf("platform %q: %w", name, err)
		}
		program, err := b.program(ctx, img.name, *platform)
		if err != nil {
			return nil, err
		}
		one, err := img.build(program, *platform)
		if err != nil {
			return nil, fmt.Errorf("image %s for %s: %w", img.name, name, err)
		}
		all = append(all, built{platform: *platform, image: one})
	}
	return all, nil
}

// program builds a command as the Makefile does and returns its bytes. What the
// version control knows is left out, so that a commit that changes no code changes
// no digest.
func (b builder) program(ctx context.Context, name string, platform v1.Platform) ([]byte, error) {
	dir, err := os.MkdirTemp("", "culvert-images-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace",
		"-ldflags", "-s -w -X main.version="+b.version, "-o", file, "./cmd/"+name)
	cmd.Dir = b.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+platform.OS, "GOARCH="+platform.Architecture, "GOFLAGS=", "GOWORK=off")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build %s for %s: %w\n%s", name, platform.String(), err, out.Bytes())
	}
	return os.ReadFile(file)
}
