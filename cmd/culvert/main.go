// Command culvert forwards local connections to pods through a relay. The same
// program is a plugin of kubectl when its file is named kubectl-culvert.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/culvert-k8s/culvert/cmd/internal/garbage"
)

// version is set by the linker; empty means what the module says.
var version string

func main() {
	garbage.Spare(garbage.Floor)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process even if it does not listen any more.
	context.AfterFunc(ctx, stop)
	a := &app{
		name:   os.Args[0],
		in:     os.Stdin,
		out:    os.Stdout,
		voice:  &voice{w: os.Stderr},
		env:    os.Getenv,
		build:  readBuild(version),
		ignore: func() { signal.Ignore(syscall.SIGPIPE) },
	}
	os.Exit(a.run(ctx, os.Args[1:]))
}

// app is one run of the program and all it touches of the world.
type app struct {
	name  string // as it was called
	in    io.ReadCloser
	out   io.WriteCloser
	voice *voice
	env   func(string) string
	build build
	// ignore makes writing to a pipe that nobody reads an error instead of
	// the end of the process.
	ignore func()
}

// run returns the exit code: 0 for success, and 1 for everything else unless a
// command says otherwise.
func (a *app) run(ctx context.Context, args []string) int {
	a.name, args, _ = completes(a.name, args)
	root := a.rootCommand()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	var status *statusError
	switch {
	case errors.As(err, &status):
		if status.err != nil {
			a.voice.fail(cmd, status.err)
		}
		return status.code
	case err != nil:
		a.voice.fail(cmd, err)
		return 1
	}
	return 0
}

// statusError ends the program with an exit code of a command's own. Without an
// error beneath, all has been said.
type statusError struct {
	code int
	err  error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }
