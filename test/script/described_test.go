package script

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// remember is: remember NAME REGEXP. $NAME becomes what the first group matches in
// the output of the last command.
func (s *script) remember(ts *testscript.TestScript, args []string) error {
	if len(args) != 2 {
		return errUsage(args)
	}
	re, err := regexp.Compile("(?m)" + args[1])
	if err != nil {
		return err
	}
	found := re.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) != 2 {
		return fmt.Errorf("no %s with one group in the output", args[1])
	}
	ts.Setenv(args[0], found[1])
	return nil
}

// described is: described relay|NODE. What the program answers to /metrics is what
// docs/metrics.md says, and the other way round.
func (s *script) described(_ *testscript.TestScript, args []string) error {
	if len(args) != 1 {
		return errUsage(args)
	}
	d, p, err := s.daemon(args[0])
	if err != nil {
		return err
	}
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		return err
	}
	section := "## Agent"
	if args[0] == "relay" {
		section = "## Relay"
	}
	_, table, _ := strings.Cut(string(page), section)
	table, _, _ = strings.Cut(table, "\n## ")
	types, must := make(map[string]string), make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `(culvert_\\w+)` \\| (\\w+) \\|.*$").FindAllStringSubmatch(table, -1) {
		types[row[1]], must[row[1]] = row[2], !strings.Contains(row[0], "*Only when")
	}
	if len(types) == 0 {
		return fmt.Errorf("docs/metrics.md has no table %q", section)
	}
	return s.await(p, func(ctx context.Context) error {
		_, text, err := d.Get(ctx, "/metrics")
		if err != nil {
			return err
		}
		return compare(text, types, must)
	})
}

// compare holds an answer against types and against what must be in it.
func compare(text string, types map[string]string, must map[string]bool) error {
	there := make(map[string]bool)
	for line := range strings.Lines(text) {
		name := regexp.MustCompile(`^culvert_\w+`).FindString(line)
		if name == "" {
			continue
		}
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			if whole := strings.TrimSuffix(name, part); types[whole] == "histogram" {
				name = whole
			}
		}
		if there[name] = true; types[name] == "" {
			return fmt.Errorf("docs/metrics.md has no %s", name)
		}
	}
	for name, is := range must {
		if is && !there[name] {
			return fmt.Errorf("there is no %s", name)
		}
		if there[name] && !strings.Contains(text, "\n# TYPE "+name+" "+types[name]+"\n") {
			return fmt.Errorf("%s is not said to be a %s", name, types[name])
		}
	}
	return nil
}
