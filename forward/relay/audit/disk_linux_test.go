package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// smallDisk is a disk of 64 KiB of which nothing is left until it is freed.
func smallDisk(t *testing.T) (dir string, free func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a disk takes root")
	}
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal("mount:", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error("unmount:", err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	// One page is left, for lines to end in the middle of.
	if err := os.WriteFile(ballast, make([]byte, 60<<10-os.Getpagesize()), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
}

// On a disk that is full, a log that is required lets nothing begin, and another one
// counts what it drops. With room again both go on, and no line is cut or there twice.
func TestARealDiskFull(t *testing.T) {
	for _, required := range []bool{true, false} {
		t.Run(fmt.Sprintf("required %v", required), func(t *testing.T) {
			dir, free := smallDisk(t)
			path := filepath.Join(dir, "audit.log")
			l := open(t, Config{Path: path, Queue: 32, Required: required})
			wrote := 0
			write := func() {
				l.Write(Record{Event: StreamOpen, User: strconv.Itoa(wrote)})
				wrote++
			}
			await(t, "an end of the disk", func() bool {
				if len(l.queue) == 0 {
					write()
				}
				return metric(l, "culvert_relay_audit_failing") == "1"
			})
			if err := l.Admit(); (err != nil) != required {
				t.Errorf("on a full disk: %v", err)
			}
			for range 3 * cap(l.queue) {
				write()
			}
			lost, err := strconv.Atoi(metric(l, `culvert_relay_audit_dropped_total{reason="queue-full"}`))
			if err != nil || lost < cap(l.queue) {
				t.Errorf("%d of %d are counted as lost, %v", lost, wrote, err)
			}
			free()
			await(t, "what waited", func() bool {
				return metric(l, "culvert_relay_audit_failing") == "0" && metric(l, "culvert_relay_audit_queued") == "0" && l.Admit() == nil
			})
			write()
			shut(t, l)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			last := -1
			got := lines(t, string(text))
			for _, line := range got {
				n, err := strconv.Atoi(line["user"].(string))
				if err != nil || n <= last {
					t.Fatalf("line %v after number %d", line, last)
				}
				last = n
			}
			if len(got)+lost != wrote || last != wrote-1 {
				t.Errorf("%d lines up to number %d and %d lost, of %d", len(got), last, lost, wrote)
			}
		})
	}
}
