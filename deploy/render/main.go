// Render writes install.yaml, which is the chart with values for kubectl apply, or
// packs the chart.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/culvert-k8s/culvert/deploy/manifest"
)

// head begins the file.
const head = `Culvert for kubectl apply, rendered from deploy/chart. Do not edit; see make install-yaml.

    kubectl apply -f install.yaml

Applying it again, or another version of it, leaves the relay's certificates alone.
`

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	fl := flag.NewFlagSet("render", flag.ContinueOnError)
	dir := fl.String("chart", "chart", "directory of the chart")
	over := fl.String("values", "install-values.yaml", "file of values")
	file := fl.String("write", "", "file to write; default standard output")
	pack := fl.String("package", "", "instead, pack the chart into this directory")
	if err := fl.Parse(args); err != nil {
		return err
	}
	chart, err := manifest.Load(*dir)
	if err != nil {
		return err
	}
	if *pack != "" {
		archive, err := chart.Pack(*pack)
		fmt.Fprintln(stdout, archive)
		return err
	}
	text, err := os.ReadFile(*over)
	if err != nil {
		return err
	}
	values, err := manifest.ReadValues(text)
	if err != nil {
		return fmt.Errorf("%s: %w", *over, err)
	}
	objects, _, err := chart.Render(context.Background(), manifest.Release{Values: values})
	if err != nil {
		return err
	}
	text = manifest.Static(head, objects)
	if *file != "" {
		return os.WriteFile(*file, text, 0o644) //nolint:gosec // a file to be published
	}
	_, err = stdout.Write(text)
	return err
}
