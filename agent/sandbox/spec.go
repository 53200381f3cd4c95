package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
)

var (
	errSpecSize    = errors.New("container spec is too large")
	errNotLinux    = errors.New("container spec has no Linux part")
	errNoPath      = errors.New("container spec has a network namespace without a path")
	errTwoNetworks = errors.New("container spec has more than one network namespace")
	errBadPath     = errors.New("path of the network namespace is not usable")
)

// networkOf reads from an OCI runtime spec where the network namespace of a
// sandbox is. No network namespace means that the pod shares that of the node.
//
// One without a path is an error: the runtime then makes a namespace that nobody
// can name. It must not be taken for the host's, which would send what is meant
// for the pod to the node.
func networkOf(spec []byte) (netns string, host bool, err error) {
	if len(spec) > maxSpec {
		return "", false, fmt.Errorf("%w: %d bytes", errSpecSize, len(spec))
	}
	var parsed struct {
		Linux *struct {
			Namespaces []struct {
				Type string `json:"type"`
				Path string `json:"path"`
			} `json:"namespaces"`
		} `json:"linux"`
	}
	if err := json.Unmarshal(spec, &parsed); err != nil {
		return "", false, fmt.Errorf("parse container spec: %w", err)
	}
	if parsed.Linux == nil {
		return "", false, errNotLinux
	}
	found := false
	for _, ns := range parsed.Linux.Namespaces {
		if ns.Type != "network" {
			continue
		}
		if found {
			return "", false, errTwoNetworks
		}
		found, netns = true, ns.Path
	}
	switch {
	case !found:
		return "", true, nil
	case netns == "":
		return "", false, errNoPath
	case len(netns) > maxPath, !path.IsAbs(netns), path.Clean(netns) != netns, strings.ContainsRune(netns, 0):
		return "", false, fmt.Errorf("%w: %.100q", errBadPath, netns)
	}
	return netns, false, nil
}

// seenAt returns where this process sees a namespace that the runtime names, if
// what is in the machine's directory for them is seen in dir. Only the last part
// of the name is taken over, so that nothing outside dir is meant. A path of any
// other directory is its own: its last part need not tell one pod from another.
func seenAt(dir, netns string) string {
	if dir == "" {
		return netns
	}
	switch path.Dir(netns) {
	case "/run/netns", "/var/run/netns": // the second leads to the first on the node, but not in a container without the link
		return path.Join(dir, path.Base(netns))
	}
	return netns
}
