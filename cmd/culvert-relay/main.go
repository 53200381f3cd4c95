// Command culvert-relay is the middle of a forward: agents keep tunnels to it,
// clients ask it for streams to pods.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/culvert-k8s/culvert/cmd/internal/boot"
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

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	verb := "serve"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb, args = args[0], args[1:]
	}
	var err error
	switch verb {
	case "serve":
		err = serve(args, stderr)
	case "forget":
		err = forget(args, stdout, stderr)
	case "join-command":
		err = joinCommand(args, stdout, stderr)
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

func forget(args []string, stdout, stderr io.Writer) error {
	node := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		node, args = args[0], args[1:]
	}
	fl := flag.NewFlagSet("culvert-relay forget NODE", flag.ContinueOnError)
	fl.SetOutput(stderr)
	dir := fl.String("state-dir", "", "state directory of the relay")
	if err := fl.Parse(args); err != nil {
		return err
	}
	if node == "" && fl.NArg() == 1 {
		node = fl.Arg(0)
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
	fmt.Fprintf(stdout, "node %s is forgotten: its certificate is refused from its next connection on, and the name is free\n", node)
	return nil
}

func joinCommand(args []string, stdout, stderr io.Writer) error {
	fl := flag.NewFlagSet("culvert-relay join-command", flag.ContinueOnError)
	fl.SetOutput(stderr)
	dir := fl.String("state-dir", "", "state directory of the relay")
	relay := fl.String("advertise", "RELAY:7443", "host:port under which agents reach the relay")
	if err := fl.Parse(args); err != nil {
		return err
	}
	if *dir == "" {
		return errors.New("join-command needs --state-dir")
	}
	pin, err := os.ReadFile(filepath.Join(*dir, "ca-pin"))
	if err != nil {
		return fmt.Errorf("read pin of the relay's authority: %w; start the relay once to make its state", err)
	}
	fmt.Fprintf(stdout, `# on the node, with %s copied to join-token (mode 0600):
culvert-agent --relay %s --relay-ca-pin %s --join-token-file join-token --state-dir /var/lib/culvert-agent
`, filepath.Join(*dir, "join-token"), *relay, strings.TrimSpace(string(pin)))
	return nil
}
