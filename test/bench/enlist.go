//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

const crowdRights = `
apiVersion: v1
kind: Namespace
metadata: {name: crowd}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: relay, namespace: crowd}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent, namespace: crowd}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: crowd-relay}
rules:
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: crowd-relay}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: crowd-relay}
subjects: [{kind: ServiceAccount, name: relay, namespace: crowd}]
`

// enlistWorkers make nodes at once.
const enlistWorkers = 16

// enlist makes nodes, without anything behind them, and for each a token of the
// agents' service account that is bound to it, as a kubelet gets them for the pods
// on it. The tokens are in files of dir as the crowd looks for them. It returns the
// flags with which a relay has them reviewed.
func (r *rig) enlist(ctx context.Context, dir string, n int) ([]string, error) {
	c := r.cluster
	if err := c.Apply(ctx, crowdRights); err != nil {
		return nil, err
	}
	g, making := errgroup.WithContext(ctx)
	g.SetLimit(enlistWorkers)
	for i := range n {
		g.Go(func() error { return r.makeNode(making, dir, fmt.Sprintf("crowd-%04d", i)) })
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("make nodes: %w", err)
	}
	token, err := c.Token(ctx, "crowd", "relay", 8*time.Hour)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "relay.token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		return nil, err
	}
	return []string{
		"--agent-service-account", "crowd/agent", "--kube-apiserver", c.Server(), "--kube-apiserver-ca", c.CAFile(), "--kube-token-file", file,
	}, nil
}

// makeNode makes one node, and its token.
func (r *rig) makeNode(ctx context.Context, dir, name string) error {
	var node struct{ Metadata struct{ UID string } }
	err := r.cluster.Do(ctx, http.MethodPost, "/api/v1/nodes", map[string]any{
		"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": name}, "spec": map[string]any{"unschedulable": true},
	}, &node)
	if err != nil {
		return err
	}
	var answer struct{ Status struct{ Token string } }
	err = r.cluster.Do(ctx, http.MethodPost, "/api/v1/namespaces/crowd/serviceaccounts/agent/token", map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"spec": map[string]any{
			"expirationSeconds": 3600, "audiences": []string{"culvert-relay"},
			"boundObjectRef": map[string]any{"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.Metadata.UID},
		},
	}, &answer)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".token"), []byte(answer.Status.Token), 0o600)
}
