// Command culvert-relay is the middle of a forward: agents keep tunnels to it,
// clients ask it for streams to pods.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/culvert-k8s/culvert/cmd/internal/boot"
	"github.com/culvert-k8s/culvert/cmd/internal/garbage"
	"github.com/culvert-k8s/culvert/forward/relay/standalone"
)

// version is set by the linker; empty means what the module says.
var version string

const usage = `Usage:
  culvert-relay [serve] [flags]         serve agents and clients
  culvert-relay forget NODE [flags]     free a node's name and revoke its certificate
  culvert-relay join-command [flags]    print how an agent joins this relay
  culvert-relay version

"culvert-relay serve --help" lists the flags.
`

func main() {
	garbage.Spare(garbage.Floor)
	ctx, stop := boot.Context()
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run returns the exit code: 0 for success, 1 for everything else.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	verb := "serve"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb, args = args[0], args[1:]
	}
	var err error
	switch verb {
	case "serve":
		err = serve(ctx, args, stdout, stderr)
	case "forget":
		err = forget(args, stdout)
	case "join-command":
		err = joinCommand(args, stdout)
	case "version":
		fmt.Fprintln(stdout, "culvert-relay", boot.Version(version))
	case "help":
		fmt.Fprint(stdout, usage)
	default:
		err = fmt.Errorf("unknown command %q; see culvert-relay help", verb)
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	default:
		fmt.Fprintln(stderr, "error:", err)
		return 1
	}
}

// parse parses flags and refuses anything else. Asked for help it prints what
// there is.
func parse(fl *flag.FlagSet, args []string, stdout io.Writer) error {
	fl.SetOutput(io.Discard) // an error is printed once, by run
	err := fl.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(stdout, "Flags of %s:\n", fl.Name())
		fl.SetOutput(stdout)
		fl.PrintDefaults()
		return err
	}
	if err != nil {
		return fmt.Errorf("%w; see %s --help", err, fl.Name())
	}
	if fl.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fl.Arg(0))
	}
	return nil
}

func forget(args []string, stdout io.Writer) error {
	node := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		node, args = args[0], args[1:]
	}
	fl := flag.NewFlagSet("culvert-relay forget", flag.ContinueOnError)
	dir := fl.String("state-dir", "", "state directory of the relay")
	if last := len(args) - 1; node == "" && last >= 0 && !strings.HasPrefix(args[last], "-") {
		node, args = args[last], args[:last] // flags first
	}
	if err := parse(fl, args, stdout); err != nil {
		return err
	}
	if node == "" || *dir == "" {
		return errors.New("forget needs the name of a node and --state-dir")
	}
	err := standalone.Forget(*dir, node)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; the relay knows no node of that name", err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "node %s is forgotten: its certificate is refused, a running relay ends its tunnel within half a minute, and the name is free\n", node)
	return nil
}

func joinCommand(args []string, stdout io.Writer) error {
	fl := flag.NewFlagSet("culvert-relay join-command", flag.ContinueOnError)
	dir := fl.String("state-dir", "", "state directory of the relay")
	relay := fl.String("advertise", "RELAY:7443", "`host:port` under which agents reach the relay")
	if err := parse(fl, args, stdout); err != nil {
		return err
	}
	if *dir == "" {
		return errors.New("join-command needs --state-dir")
	}
	inv, err := standalone.ReadInvitation(*dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; start the relay once to make its state", err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, `# On the node. Whoever has the token can join as a node.
( umask 077; echo %s > join-token )
culvert-agent --relay %s --relay-ca-pin %s --join-token-file join-token --state-dir /var/lib/culvert-agent
`, inv.Token, *relay, inv.Pin)
	return nil
}
