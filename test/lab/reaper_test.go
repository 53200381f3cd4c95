//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dieEnv makes the test binary the process that TestReaper kills.
const dieEnv = "LAB_TEST_DIE"

// TestReaper kills a process that has a network, and wants all of it gone.
func TestReaper(t *testing.T) {
	RequireRoot(t)
	if os.Getenv(dieEnv) != "" {
		dieWithNetwork(t)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestReaper$")
	cmd.Env = append(os.Environ(), dieEnv+"=1")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the victim ended with %v: %s", err, out)
	}
	var dir string
	var pid int
	if _, err := fmt.Sscan(string(out), &dir, &pid); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	deadline := time.Now().Add(longEnough)
	for gone(dir) != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		if time.Now().After(deadline) {
			t.Fatalf("left: %v; process %d: %v", gone(dir), pid, syscall.Kill(pid, 0))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// gone returns nil when neither dir nor a mount below it exists.
func gone(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("directory: %w", err)
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), dir) {
		return errMounted
	}
	return nil
}

func dieWithNetwork(t *testing.T) {
	n, err := New(t.Context(), Config{Hosts: []string{"h"}})
	if err != nil {
		t.Fatal(err)
	}
	pod, err := n.Host("h").Pod(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	p, err := pod.Start(t.Context(), "sleep", "60")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(n.Dir(), p.Pid())
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
