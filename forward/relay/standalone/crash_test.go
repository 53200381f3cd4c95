//go:build unix

package standalone

import (
	"bufio"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

// A relay that is killed at any moment has recorded every certificate that left
// it, and its directory opens again without a hand.
func TestKilledRelayKeepsItsWord(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	var issued []string
	pin := ""
	for round := range 6 {
		// The first rounds die while the state is made or soon after.
		issued = append(issued, killAfter(t, exe, dir, round*round*3)...)
		s, err := Open(Config{Dir: dir, Report: func(err error) { t.Error(err) }})
		if err != nil {
			t.Fatal(err)
		}
		if pin != "" && s.Pin() != pin {
			t.Error("the authority changed")
		}
		pin = s.Pin()
		for _, line := range issued {
			der, err := hex.DecodeString(line)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.VerifyNode(parse(t, der)); err != nil {
				t.Errorf("certificate that left is not known: %v", err)
			}
		}
		for _, sub := range []string{dir, filepath.Join(dir, nodesDir)} {
			if left, _ := filepath.Glob(filepath.Join(sub, identity.TempPrefix+"*")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(issued) == 0 {
		t.Fatal("nothing was issued")
	}
}

// killAfter runs a relay that only issues certificates, kills it when it has
// issued at least n, and returns what it issued.
func killAfter(t *testing.T, exe, dir string, n int) []string {
	t.Helper()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		cmd.Process.Kill()
	}
	var lines []string
	for r := bufio.NewReader(out); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			break // a part of a line did not leave
		}
		if strings.HasPrefix(line, "error") {
			t.Error(line)
		}
		if lines = append(lines, strings.TrimSpace(line)); len(lines) == n {
			cmd.Process.Kill()
		}
	}
	cmd.Wait() // it was killed, which is an error
	return lines
}
