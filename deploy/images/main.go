// Images builds the container images of the two servers without a container
// engine: static binaries, a few files, nothing to run but them. For each image it
// writes an OCI layout with all architectures and one docker archive for each of
// them. The same tree and the same Go give the same digests.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1) //nolint:gocritic // nothing is left to stop
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	fl := flag.NewFlagSet("images", flag.ContinueOnError)
	source := fl.String("source", "..", "directory of the product's module")
	out := fl.String("out", "", "directory to write to; what it has of the same name is replaced")
	registry := fl.String("registry", "ghcr.io/culvert-k8s", "registry and path that the images are named after")
	version := fl.String("version", "", "version and tag, such as 0.1.0")
	revision := fl.String("revision", "", "commit, for the label of that name")
	platforms := fl.String("platforms", "linux/amd64,linux/arm64", "platforms, separated by commas")
	only := fl.String("only", "", "the only image to build; default all")
	if err := fl.Parse(args); err != nil {
		return err
	}
	if *out == "" || *version == "" || fl.NArg() > 0 {
		return errors.New("images needs -out and -version, and takes no other arguments")
	}
	b := builder{source: *source, version: *version}
	for _, img := range images() {
		if *only != "" && *only != img.name {
			continue
		}
		img.version, img.revision = *version, *revision
		built, err := b.all(ctx, img, strings.Split(*platforms, ","))
		if err != nil {
			return err
		}
		digest, err := write(*out, *registry, img, built)
		if err != nil {
			return fmt.Errorf("write image %s: %w", img.name, err)
		}
		fmt.Fprintf(stdout, "%s/%s:%s@%s\n", *registry, img.name, *version, digest)
		fmt.Fprintf(stdout, "  %s (OCI layout)\n", filepath.Join(*out, img.name))
		for _, p := range built {
			fmt.Fprintf(stdout, "  %s (docker archive)\n", archivePath(*out, img, p.platform))
		}
	}
	return nil
}
