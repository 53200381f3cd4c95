package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-k8s/culvert/forward/relay/policy"
)

const policyTestLong = `Say what a relay's policy does with a connection, without a relay.

The file is the one that culvert-relay gets by --policy. What a caller may without
a policy is not asked here: a policy can only refuse more.

With -t the expectations of a file are tried, and those that fail are listed.

The exit code is 0 if the connection is let through or all expectations hold, 1 if
it is not or one does not, and 2 if that could not be told.`

const policyTestExample = `  # May ann, who is in the group dev, reach port 5432 of db-0?
  %[1]s policy test -f policy.yaml --user ann --group dev -n team-a --pod db-0 --labels app=postgres --port 5432

  # In CI: does the policy do what it should?
  %[1]s policy test -f policy.yaml -t expectations.yaml`

// policyTest is one run of policy test.
type policyTest struct {
	*app
	file, table   string
	output        string
	request       policy.Request
	labels        map[string]string
	allowed       string // the annotation of the pod
	withoutLabels bool
}

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Try out rules for a relay",
		Args:  arguments(cobra.NoArgs, "policy takes a command: test"),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.policyTestCommand())
	return cmd
}

func (a *app) policyTestCommand() *cobra.Command {
	t := &policyTest{app: a}
	cmd := &cobra.Command{
		Use:     "test -f FILE (-t FILE | --pod POD ...)",
		Short:   "Say what a policy does with a connection",
		Long:    policyTestLong,
		Example: fmt.Sprintf(policyTestExample, displayName(a.name)),
		Args:    arguments(cobra.NoArgs, "policy test takes flags only"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ok, err := t.run(cmd)
			switch {
			case err != nil:
				return &statusError{2, err}
			case !ok:
				return &statusError{1, nil}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fl := cmd.Flags()
	fl.StringVarP(&t.file, "file", "f", "", "the policy")
	fl.StringVarP(&t.table, "tests", "t", "", "file with expectations")
	fl.StringVar(&t.request.User, "user", "", "name of the caller, as the cluster has it")
	fl.StringArrayVar(&t.request.Groups, "group", nil, "group of the caller; may be repeated")
	// Not --namespace of a kubeconfig: no cluster is asked.
	fl.StringVarP(&t.request.Namespace, "namespace", "n", "default", "namespace of the pod")
	fl.StringVar(&t.request.Pod, "pod", "", "name of the pod")
	fl.StringToStringVar(&t.labels, "labels", nil, "labels of the pod, as KEY=VALUE,...")
	fl.StringVar(&t.allowed, "allowed-ports", "", "annotation "+policy.Annotation+" of the pod")
	fl.Uint16Var(&t.request.Port, "port", 0, "port in the pod; 0 asks whether there is any that may be reached")
	fl.BoolVar(&t.withoutLabels, "without-labels", false, "as a relay that runs without --kube, which knows no labels")
	outputFlag(cmd, &t.output)
	_ = cmd.MarkFlagFilename("file")
	_ = cmd.MarkFlagFilename("tests")
	return cmd
}

// run tells whether all is let through, or as expected.
func (t *policyTest) run(cmd *cobra.Command) (bool, error) {
	if err := checkOutput(t.output); err != nil {
		return false, err
	}
	switch {
	case t.file == "":
		return false, &usageError{"policy test needs -f, the file with the policy"}
	case (t.table == "") == (t.request.Pod == ""):
		return false, &usageError{"policy test needs either -t, a file with expectations, or --pod"}
	}
	text, err := readBounded(t.file)
	if err != nil {
		return false, err
	}
	p, err := policy.Parse(text, policy.Limits{NoLabels: t.withoutLabels})
	if err != nil {
		return false, fmt.Errorf("%s: %w", t.file, err)
	}
	if t.table != "" {
		return t.all(p)
	}
	var annotations map[string]string
	if cmd.Flag("allowed-ports").Changed {
		annotations = map[string]string{policy.Annotation: t.allowed}
	}
	t.request.About = policy.AboutPod(t.labels, annotations)
	return t.one(p)
}

// readBounded reads a file that must not be longer than a policy may be.
func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, policy.MaxFile+1))
}

// decided is a decision as -o json shows it.
type decided struct {
	Allowed bool   `json:"allowed"`
	Verdict string `json:"verdict"`
	Rule    string `json:"rule"`
	Line    int    `json:"line"`
	Text    string `json:"text"`
}

func (t *policyTest) one(p *policy.Policy) (bool, error) {
	d := p.Decide(&t.request)
	if t.output == "json" {
		return d.Allowed, writeJSON(t.out, decided{d.Allowed, d.Verdict(), d.Rule, d.Line, d.Text})
	}
	text := fmt.Sprintf("%s: %s", d.Verdict(), d.Why())
	if d.Text != "" {
		text += "\n" + strings.TrimSuffix(line("%s", d.Text), "\n")
	}
	_, err := fmt.Fprintln(t.out, text)
	return d.Allowed, err
}

// tried is an expectation as -o json shows it.
type tried struct {
	Name string `json:"name"`
	Line int    `json:"line"`
	// Fault is what came instead of what was expected.
	Fault string `json:"fault"`
}

func (t *policyTest) all(p *policy.Policy) (bool, error) {
	text, err := readBounded(t.table)
	if err != nil {
		return false, err
	}
	expected, err := policy.ParseExpectations(text)
	if err != nil {
		return false, fmt.Errorf("%s: %w", t.table, err)
	}
	failed := []tried{}
	for i := range expected {
		e := &expected[i]
		if fault := e.Check(p); fault != "" {
			failed = append(failed, tried{e.Name, e.Line, fault})
		}
	}
	if t.output == "json" {
		err = writeJSON(t.out, struct {
			Tests  int     `json:"tests"`
			Failed []tried `json:"failed"`
		}{len(expected), failed})
		return len(failed) == 0, err
	}
	for _, f := range failed {
		if _, err := io.WriteString(t.out, line("%s:%d: %s: %s", t.table, f.Line, f.Name, f.Fault)); err != nil {
			return false, err
		}
	}
	_, err = fmt.Fprintf(t.out, "%d of %d tests passed\n", len(expected)-len(failed), len(expected))
	return len(failed) == 0, err
}
