//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// ticks is how many units of /proc/PID/stat are a second: USER_HZ, which is the
	// same on all systems that Go runs on.
	ticks = 100
	// gib and mib are bytes.
	gib = 1 << 30
	mib = 1 << 20
)

// part is a program on a path: a process with its descendants.
type part struct {
	name string
	pids []int
}

// family is a process and its descendants, as they are now.
func family(name string, pid int) part {
	children := map[int][]int{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		if parent, err := parseParent(stat); err == nil {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			children[parent] = append(children[parent], child)
		}
	}
	p := part{name: name, pids: []int{pid}}
	for i := 0; i < len(p.pids); i++ {
		p.pids = append(p.pids, children[p.pids[i]]...)
	}
	return p
}

// statFields returns the fields of a /proc/PID/stat from the third on, at least
// atLeast of them.
func statFields(stat []byte, atLeast int) ([]string, error) {
	// The name, in parentheses, may hold anything.
	_, rest, ok := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(") "))
	fields := strings.Fields(string(rest))
	if !ok || len(fields) < atLeast {
		return nil, errors.New("malformed /proc/PID/stat")
	}
	return fields, nil
}

// parseParent returns the parent of the process in a /proc/PID/stat.
func parseParent(stat []byte) (int, error) {
	fields, err := statFields(stat, 2)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(fields[1])
}

// parseCPU returns the seconds of processor time in a /proc/PID/stat: of the
// process with all its threads, without its children.
func parseCPU(stat []byte) (float64, error) {
	const user, system = 11, 12 // fields 14 and 15, counted from the third
	fields, err := statFields(stat, system+1)
	if err != nil {
		return 0, err
	}
	u, err1 := strconv.ParseUint(fields[user], 10, 64)
	s, err2 := strconv.ParseUint(fields[system], 10, 64)
	return float64(u+s) / ticks, errors.Join(err1, err2)
}

// cpu returns the processor time that the program has used, in seconds.
func (p part) cpu() (float64, error) {
	return p.sum("processor time", "stat", parseCPU)
}

// sum adds up what a file of /proc says of each process.
func (p part) sum(what, file string, parse func([]byte) (float64, error)) (float64, error) {
	total := 0.0
	for _, pid := range p.pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			return 0, fmt.Errorf("%s of %s: %w", what, p.name, err)
		}
		value, err := parse(text)
		if err != nil {
			return 0, fmt.Errorf("%s of %s: %w", what, p.name, err)
		}
		total += value
	}
	return total, nil
}

// parseStatus returns a line of a /proc/PID/status that counts kB, in bytes.
func parseStatus(status []byte, line string) (float64, error) {
	for text := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(text, ":")
		if name != line {
			continue
		}
		fields := strings.Fields(value)
		if len(fields) != 2 || fields[1] != "kB" {
			break
		}
		kb, err := strconv.ParseUint(fields[0], 10, 64)
		return float64(kb) * 1024, err
	}
	return 0, fmt.Errorf("no %s in /proc/PID/status", line)
}

// memory returns the resident memory of the program in bytes. What processes share,
// such as the pages of their binary, counts for each.
func (p part) memory() (float64, error) {
	return p.sum("memory", "status", func(status []byte) (float64, error) { return parseStatus(status, "VmRSS") })
}

// machine is the name under which spent counts the whole machine.
const machine = "machine"

// parseBusy returns the seconds that all processors together were not idle, from
// /proc/stat.
func parseBusy(stat []byte) (float64, error) {
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line)
	const idle, waiting, counted = 4, 5, 9 // guests are counted as users too
	if len(fields) < counted || fields[0] != "cpu" {
		return 0, errors.New("malformed /proc/stat")
	}
	total := 0.0
	for i, text := range fields[1:counted] {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("malformed /proc/stat: %w", err)
		}
		if i+1 != idle && i+1 != waiting {
			total += float64(n) / ticks
		}
	}
	return total, nil
}

// machineBusy returns the processor time that the whole machine has used.
func machineBusy() (float64, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("processor time of the machine: %w", err)
	}
	return parseBusy(stat)
}

// spent returns how much processor time each part has used, by its name, and the
// whole machine.
func spent(parts []part) (map[string]float64, error) {
	all := map[string]float64{}
	for _, p := range parts {
		used, err := p.cpu()
		if err != nil {
			return nil, err
		}
		all[p.name] += used
	}
	var err error
	all[machine], err = machineBusy()
	return all, err
}

// findIn returns the process of a name that is in a network namespace.
func findIn(netns, name string) (int, error) {
	want, err := os.Stat(netns)
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", name, err)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || strings.TrimSpace(string(comm)) != name {
			continue
		}
		if is, err := os.Stat(filepath.Join(dir, "ns", "net")); err == nil && os.SameFile(is, want) {
			return strconv.Atoi(filepath.Base(dir))
		}
	}
	return 0, fmt.Errorf("find %s: no such process in %s", name, netns)
}
