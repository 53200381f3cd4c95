package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-k8s/culvert/forward/client"
)

const doctorLong = `Go the way of a connection hop by hop and say what is missing.

Without a target the way is gone as far as the relay. With TYPE/NAME the pod, its
node and the agent there are looked at, and with a PORT a connection is made to
it and closed again.

The exit code is 1 if a check failed.`

const doctorExample = `  # Kubeconfig, API server, relay and rights
  %[1]s doctor

  # All of the way to a port
  %[1]s doctor deploy/web 8080`

// Results of a check.
const (
	passed  = "ok"
	warned  = "warning"
	failed  = "failed"
	skipped = "skipped" // something before it failed
)

// finding is one line of the doctor's. It is part of -o json.
type finding struct {
	Check  string `json:"check"`
	Result string `json:"result"`
	Detail string `json:"detail"`
	// Advice is what to do about it, empty if nothing is.
	Advice string `json:"advice"`
	// Rule is the missing rule of a role, in YAML.
	Rule string `json:"rule,omitempty"`
}

// doctor goes the way and notes what it finds.
type doctor struct {
	*app
	flags    *relayFlags
	output   string
	selector string

	findings []finding
}

func (a *app) doctorCommand(relay *relayFlags) *cobra.Command {
	d := &doctor{app: a, flags: relay}
	cmd := &cobra.Command{
		Use:     "doctor [[TYPE/]NAME [PORT]]",
		Short:   "Check every hop of the way to a pod",
		Long:    doctorLong,
		Example: fmt.Sprintf(doctorExample, displayName(a.name)),
		Args:    arguments(cobra.MaximumNArgs(2), "doctor takes TYPE/NAME and one port"),
		RunE:    d.run,

		ValidArgsFunction: a.completeTarget(relay, true),
	}
	outputFlag(cmd, &d.output)
	cmd.Flags().StringVarP(&d.selector, "selector", "l", "", "label selector in place of TYPE/NAME")
	return cmd
}

func (d *doctor) run(cmd *cobra.Command, args []string) error {
	if err := checkOutput(d.output); err != nil {
		return err
	}
	var what *request
	if len(args) > 0 || d.selector != "" {
		r, err := parseRequest(d.selector, args)
		if err != nil {
			return err
		}
		if len(r.ports) > 1 {
			return &usageError{"doctor takes one port"}
		}
		what = &r
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*askTimeout)
	defer cancel()
	d.examine(ctx, what)
	if err := d.show(); err != nil {
		return err
	}
	n := 0
	for _, f := range d.findings {
		if f.Result == failed {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%d of %d checks failed", n, len(d.findings))
	}
	return nil
}

// examine goes as far as it gets.
func (d *doctor) examine(ctx context.Context, what *request) {
	c, err := d.flags.cluster(d.app)
	if err != nil {
		d.fail("kubeconfig", err)
		return
	}
	reachable := false
	if c != nil {
		d.voice.advice.Cluster = true
		d.kubeconfig(c)
		reachable = d.server(ctx, c)
	}
	way := d.relay(ctx)
	var session *client.Client
	if way != nil {
		session = d.session(ctx, way)
	}
	if session != nil {
		defer session.Close()
	}
	if reachable {
		d.rights(ctx, c, what)
	}
	if what != nil {
		d.way(ctx, way, session, what)
	}
}

// show writes what was found.
func (d *doctor) show() error {
	if d.output == "json" {
		ok := true
		for _, f := range d.findings {
			ok = ok && f.Result != failed
		}
		return writeJSON(d.out, struct {
			OK     bool      `json:"ok"`
			Checks []finding `json:"checks"`
		}{ok, d.findings})
	}
	t := table{head: []string{"CHECK", "RESULT", "DETAIL"}}
	rules := ""
	for _, f := range d.findings {
		detail := f.Detail
		if f.Advice != "" {
			detail += ": " + f.Advice
		}
		t.row(f.Check, f.Result, strings.TrimSuffix(line("%s", detail), "\n"))
		if f.Rule != "" && !strings.Contains(rules, f.Rule) {
			rules += f.Rule
		}
	}
	if err := t.write(d.out); err != nil {
		return err
	}
	if rules == "" {
		return nil
	}
	_, err := fmt.Fprintf(d.out, "\nThe role lacks:\n\nrules:\n%s", rules)
	return err
}

func (d *doctor) note(f finding) { d.findings = append(d.findings, f) }

func (d *doctor) pass(check, format string, args ...any) {
	d.note(finding{Check: check, Result: passed, Detail: fmt.Sprintf(format, args...)})
}

func (d *doctor) warn(check, advice, format string, args ...any) {
	d.note(finding{Check: check, Result: warned, Detail: fmt.Sprintf(format, args...), Advice: advice})
}

// fail notes an error with the hint that the program would give at its end.
func (d *doctor) fail(check string, err error) {
	text, known := serverReason(err, d.voice.advice)
	if !known {
		text = reason(err)
	}
	advice := hint(err, d.voice.advice)
	if advice == "" {
		advice = "try again, and ask whoever runs it if that does not help"
	}
	d.note(finding{Check: check, Result: failed, Detail: text, Advice: advice})
}

func (d *doctor) skip(check, why string) {
	d.note(finding{Check: check, Result: skipped, Detail: why})
}

// expiresSoon is when a certificate is worth a word.
const expiresSoon = 24 * time.Hour
