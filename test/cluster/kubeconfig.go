//go:build linux

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// notInFileName is what user names have and file names should not.
var notInFileName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// credential is the user entry of a kubeconfig.
type credential struct {
	Cert  []byte `json:"client-certificate-data,omitempty"`
	Key   []byte `json:"client-key-data,omitempty"`
	Token string `json:"token,omitempty"`
}

// writeKubeconfig writes a kubeconfig, in the JSON that is also YAML, and
// returns its path.
func (c *Cluster) writeKubeconfig(user string, credential credential) (string, error) {
	type named map[string]any
	content, err := json.MarshalIndent(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "lab",
		"clusters": []named{{"name": "lab", "cluster": named{
			"server": c.Server(), "certificate-authority-data": c.ca.cert,
		}}},
		"users":    []named{{"name": user, "user": credential}},
		"contexts": []named{{"name": "lab", "context": named{"cluster": "lab", "user": user, "namespace": "default"}}},
	}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("write kubeconfig of %s: %w", user, err)
	}
	path := filepath.Join(c.dir, "kubeconfig", notInFileName.ReplaceAllString(user, "_"))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return "", fmt.Errorf("write kubeconfig of %s: %w", user, err)
	}
	return path, nil
}

// UserKubeconfig makes a client certificate for a user with groups, who needs no
// rights yet, and returns the path of a kubeconfig with it.
func (c *Cluster) UserKubeconfig(user string, groups ...string) (string, error) {
	c.files.Lock()
	defer c.files.Unlock()
	pair, err := c.ca.client("user-"+notInFileName.ReplaceAllString(user, "_"), user, groups...)
	if err != nil {
		return "", err
	}
	return c.writeKubeconfig(user, credential{Cert: pair.cert, Key: pair.key})
}

// TokenKubeconfig returns the path of a kubeconfig with a bearer token, for
// example one from Token. The name is only that of the file and its entries.
func (c *Cluster) TokenKubeconfig(name, token string) (string, error) {
	c.files.Lock()
	defer c.files.Unlock()
	return c.writeKubeconfig(name, credential{Token: token})
}

// Token asks the API server for a token of a service account that exists.
// lifetime is at least 10 minutes, the least the API server grants; zero means an
// hour. Without audiences the token is for the API server.
func (c *Cluster) Token(ctx context.Context, namespace, account string, lifetime time.Duration, audiences ...string) (string, error) {
	if lifetime == 0 {
		lifetime = time.Hour
	}
	request := map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"spec": map[string]any{"expirationSeconds": int(lifetime.Seconds()), "audiences": audiences},
	}
	var answer struct{ Status struct{ Token string } }
	path := fmt.Sprintf("/api/v1/namespaces/%s/serviceaccounts/%s/token", namespace, account)
	if err := c.Do(ctx, http.MethodPost, path, request, &answer); err != nil {
		return "", fmt.Errorf("get token of %s/%s: %w", namespace, account, err)
	}
	return answer.Status.Token, nil
}
