package main

import (
	"github.com/culvert-k8s/culvert/forward/relay/policy"
)

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
