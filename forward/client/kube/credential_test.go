package kube

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func credential(t *testing.T, cfg *rest.Config) *Credential {
	t.Helper()
	cfg.Host = "https://192.0.2.1"
	c, err := NewCredential(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wantToken(t *testing.T, c *Credential, want string) {
	t.Helper()
	if got, err := c.Token(); got != want || err != nil {
		t.Errorf("token %q, %v, want %q", got, err, want)
	}
}

func TestStaticToken(t *testing.T) {
	c := credential(t, &rest.Config{BearerToken: "abc"})
	wantToken(t, c, "abc")
	c.Expired()
	wantToken(t, c, "abc")
	if cert, err := c.Certificate(); cert != nil || err != nil {
		t.Errorf("certificate %v, %v", cert, err)
	}
	wantToken(t, credential(t, &rest.Config{}), "")
}

func TestTokenFileIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	c := credential(t, &rest.Config{BearerTokenFile: file})
	wantToken(t, c, "first")
	write("second")
	c.Expired()
	wantToken(t, c, "second")
}

func TestProgramIsRunAgainWhenItsTokenHasRunOut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "runs")
	c := credential(t, &rest.Config{ExecProvider: &clientcmdapi.ExecConfig{
		APIVersion: "client.authentication.k8s.io/v1", Command: os.Args[0],
		Env:             []clientcmdapi.ExecEnvVar{{Name: execEnv, Value: file}},
		InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
	}})
	wantToken(t, c, "token-1")
	wantToken(t, c, "token-1")
	c.Expired()
	wantToken(t, c, "token-2")
	if err := os.WriteFile(file, []byte("refuse"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Expired()
	// The old one goes on until the program has another one to give.
	wantToken(t, c, "token-2")

	fresh := credential(t, &rest.Config{ExecProvider: &clientcmdapi.ExecConfig{
		APIVersion: "client.authentication.k8s.io/v1", Command: filepath.Join(t.TempDir(), "missing"),
		InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
	}})
	if _, err := fresh.Token(); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a program that is missing: %v", err)
	}
}

func TestCredentialsThatNoRelayTakes(t *testing.T) {
	for name, as := range map[string]rest.ImpersonationConfig{
		"user": {UserName: "jane"}, "group": {Groups: []string{"devs"}}, "uid": {UID: "1"},
	} {
		if _, err := NewCredential(&rest.Config{Impersonate: as}); !errors.Is(err, ErrImpersonate) {
			t.Errorf("as %s: %v", name, err)
		}
	}
	c := credential(t, &rest.Config{Username: "jane", Password: "secret"})
	if _, err := c.Token(); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password: %v", err)
	}
}
