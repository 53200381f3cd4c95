package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/policy"
)

// parseLimits reads NAME=N.
func parseLimits(list []string) (out relay.Limits, err error) {
	for _, one := range list {
		name, value, ok := strings.Cut(one, "=")
		if !ok {
			return out, fmt.Errorf("--limit %q: want NAME=N; there are %s", one, strings.Join(relay.LimitNames(), ", "))
		}
		n, err := strconv.Atoi(value)
		switch {
		case value == "off":
			n = -1
		case err != nil || n < 1 || n > 1<<30:
			return out, fmt.Errorf("--limit %s: %q is neither a number from 1 on nor off", name, value)
		}
		if err := out.Set(name, n); err != nil {
			return out, fmt.Errorf("--limit: %w", err)
		}
	}
	return out, nil
}

// loadPolicy takes the rules that narrow what callers may reach. A file that is
// broken now keeps the relay from starting; one that breaks later changes nothing.
func (p *parts) loadPolicy(f *serveFlags) error {
	if f.policy == "" {
		return nil
	}
	log := p.cfg.Log
	var err error
	p.policy, err = policy.Open(policy.FileConfig{
		Path:   f.policy,
		Limits: policy.Limits{NoLabels: !f.kube.callers},
		Loaded: func(now *policy.Policy) {
			log.Info("policy has changed", "file", f.policy, "rules", now.Len(), "dry_run", now.DryRun())
		},
		Broken: func(err error) {
			log.Error("policy is broken: the one before stays in force", "file", f.policy, "err", err)
		},
	})
	if err != nil {
		return err
	}
	p.cfg.Policy = p.policy.Policy
	now := p.policy.Policy()
	log.Info("policy", "file", f.policy, "rules", now.Len(), "dry_run", now.DryRun())
	return nil
}
