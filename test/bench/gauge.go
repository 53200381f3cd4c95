//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	gaugeTime  = 5 * time.Millisecond
	gaugeBytes = 1 << 20 // more than a core has to itself
)

// gauge is how much of a fixed work, sums over memory, the machine does in a
// millisecond at the moment: with less than usual a neighbour has taken the rest.
func gauge(memory []byte) float64 {
	began, n := time.Now(), 0
	for time.Since(began) < gaugeTime {
		memory[n%len(memory)] = byte(crc32.ChecksumIEEE(memory[:gaugeBytes/8]))
		copy(memory[gaugeBytes/2:], memory[:gaugeBytes/2])
		n++
	}
	return float64(n) / time.Since(began).Seconds() / 1e3
}

const (
	// calmTime is how long the machine must have been idle before a measurement.
	calmTime = 100 * time.Millisecond
	// machinePatience is how long a measurement waits for that.
	machinePatience = 10 * time.Second
	// calmPart is how much of its processors may be busy then.
	calmPart = 0.15
)

// calm waits until nobody else uses the machine, at most for so long, and tells
// whether that came to be.
func calm(ctx context.Context, patience time.Duration) bool {
	for deadline := time.Now().Add(patience); ; {
		before, err1 := machineBusy()
		began := time.Now()
		if rest(ctx, calmTime) != nil {
			return false
		}
		after, err2 := machineBusy()
		if err1 != nil || err2 != nil {
			return false
		}
		if (after-before)/time.Since(began).Seconds()/float64(runtime.NumCPU()) <= calmPart {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// facts say what this runs on, and whom Culvert is compared to: the programs in
// dir, unless that is empty.
func facts(ctx context.Context, dir string) []string {
	all := []string{fmt.Sprintf("%d cores", runtime.NumCPU())}
	if model := lineOf("/proc/cpuinfo", "model name"); model != "" {
		all = append(all, model)
	}
	if memory := lineOf("/proc/meminfo", "MemTotal"); memory != "" {
		var kb float64
		if _, err := fmt.Sscan(memory, &kb); err == nil {
			all = append(all, fmt.Sprintf("%.0f GiB", kb/(1<<20)))
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		all = append(all, "Linux "+strings.TrimSpace(string(text)))
	}
	all = append(all, strings.Replace(runtime.Version(), "go", "Go ", 1))
	if dir == "" {
		return all
	}
	for _, program := range [][]string{
		{"kube-apiserver", "--version"}, {"kubectl", "version", "--client"}, {"kubectl-old", "version", "--client"}, {"containerd", "--version"},
	} {
		out, err := exec.CommandContext(ctx, filepath.Join(dir, program[0]), program[1:]...).Output()
		if version := versionIn(string(out)); err == nil && version != "" {
			all = append(all, strings.TrimSuffix(program[0], "-old")+" "+version)
		}
	}
	return all
}

// lineOf returns what a file of /proc says under a name.
func lineOf(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if is, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(is) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// versionIn returns the first word of a text that is a version.
func versionIn(text string) string {
	for word := range strings.FieldsSeq(text) {
		v := strings.TrimPrefix(word, "v")
		if strings.Contains(v, ".") && v[0] >= '0' && v[0] <= '9' {
			return v
		}
	}
	return ""
}

// commit is what is measured, empty if nobody knows.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(out))
}
