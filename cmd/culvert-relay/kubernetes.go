package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/culvert-k8s/culvert/cmd/internal/boot"
	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/kube"
	"github.com/culvert-k8s/culvert/forward/relay/kube/keeper"
	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

const (
	// accountDir is where kubelet puts what a pod needs for the API server.
	accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

	// serviceURL is the API server as every pod knows it; its certificate has that
	// name in nearly every cluster.
	serviceURL = "https://kubernetes.default.svc"
)

// environment is what a process in a pod knows without flags.
type environment struct {
	apiHost, apiPort string // of the API server; empty outside of a cluster
	accountDir       string
}

func ownEnvironment() environment {
	return environment{
		apiHost: os.Getenv("KUBERNETES_SERVICE_HOST"), apiPort: os.Getenv("KUBERNETES_SERVICE_PORT"),
		accountDir: accountDir,
	}
}

// apiServer is how to reach the API server.
type apiServer struct {
	url, ca string // ca is a file, empty for the system's
	token   string // file with the relay's own
}

// api finds the API server. Only the one of its own cluster is shown the token of
// the pod without being told so.
func (f *kubeFlags) api(env environment) (apiServer, error) {
	api := apiServer{url: f.server, ca: f.serverCA, token: f.tokenFile}
	switch {
	case f.server != "":
	case env.apiHost != "":
		port := env.apiPort
		if port == "" {
			port = "443"
		}
		api.url = "https://" + net.JoinHostPort(env.apiHost, port)
		if api.ca == "" {
			api.ca = filepath.Join(env.accountDir, "ca.crt")
		}
		if api.token == "" {
			api.token = filepath.Join(env.accountDir, "token")
		}
	case f.viaAgents && f.serverCA == "":
		return api, errors.New("--kube-via-agents needs --kube-apiserver-ca outside of the cluster; kubectl get configmap kube-root-ca.crt -o jsonpath='{.data.ca\\.crt}' prints it")
	case f.viaAgents:
		api.url = serviceURL
	default:
		return api, errors.New("where is the API server? The relay does not run in a cluster (KUBERNETES_SERVICE_HOST is not set): give --kube-apiserver and --kube-apiserver-ca, or --kube-via-agents")
	}
	if api.token == "" && (f.agentAccount != "" || f.impersonate || f.tlsSecret != "") {
		return api, errors.New("--agent-service-account, --impersonate and --tls-secret need a token of the relay's own: give --kube-token-file")
	}
	return api, nil
}

// setUpKube makes what asks the API server, where a flag wants that.
func (p *parts) setUpKube(f *kubeFlags, advertise boot.List, log *slog.Logger) error {
	if !f.callers && f.agentAccount == "" && f.tlsSecret == "" {
		return nil
	}
	api, err := f.api(ownEnvironment())
	if err != nil {
		return err
	}
	log.Info("API server", "url", api.url, "via_agents", f.viaAgents)
	if f.tlsSecret != "" {
		if p.keeper, err = f.newKeeper(api, advertise, log); err != nil {
			return err
		}
		p.tls.GetCertificate = p.keeper.GetCertificate
	}
	if !f.callers && f.agentAccount == "" {
		return nil
	}
	cfg := kube.Config{
		APIServer: api.url, CAFile: api.ca, TokenFile: api.token, UserAgent: "culvert-relay/" + p.cfg.Version,
		AgentAccount: f.agentAccount, AgentAudience: f.agentAudience, AgentRate: f.agentReviews,
		Impersonate: f.impersonate, RequestHeaderNames: f.headerNames,
		AllowHostNetwork: f.allowHostNetwork, Audit: p.audit, Log: log,
	}
	if f.viaAgents {
		// The relay is there before anybody asks: nobody does until it serves.
		cfg.DialAPI = func(ctx context.Context) (net.Conn, error) { return p.srv.DialAPI(ctx) }
	}
	if err := p.callerCertificates(f, &cfg); err != nil {
		return err
	}
	if p.kube, err = kube.New(cfg); err != nil {
		return err
	}
	if f.callers {
		p.serveCallers(f.kubectlErrors == strict, log)
	}
	return nil
}

// serveCallers answers for the callers of the cluster, and opens the door for
// kubectl.
func (p *parts) serveCallers(strictErrors bool, log *slog.Logger) {
	k := p.kube
	p.cfg.Authorize, p.cfg.Locate, p.cfg.Oversee = k, k, k
	portforward := kubectl.New(kubectl.Config{Strict: strictErrors, Log: log, Hooks: p.metrics.kubectl()})
	p.cfg.HTTP = func(srv *relay.Server) http.Handler { return k.Front(srv, portforward) }
	p.cfg.RefuseHTTP = kube.Refuse
	p.tls.HTTP = true
}

// callerCertificates sets up what TLS may ask of callers: certificates of the
// cluster's users, and of front proxies.
func (p *parts) callerCertificates(f *kubeFlags, cfg *kube.Config) error {
	watch := identity.WatchConfig{Report: p.report}
	var files []string
	for _, one := range []struct {
		file string
		pool *func() *x509.CertPool
	}{{f.clientCA, &cfg.ClientCA}, {f.headerCA, &cfg.RequestHeaderCA}} {
		if one.file == "" {
			continue
		}
		cas, err := identity.LoadCAs(one.file, watch)
		if err != nil {
			return err
		}
		*one.pool = cas.Pool
		files = append(files, one.file)
		if one.file == f.clientCA {
			p.tls.ClientCAs = cas.Pool
		}
	}
	if len(files) == 0 {
		return nil
	}
	all, err := identity.Watch(watch, poolOf, files...)
	if err != nil {
		return err
	}
	p.tls.HTTPClientCAs = func() *x509.CertPool {
		pool, _ := all.Get() // after an error, what was good before
		return pool
	}
	return nil
}

// poolOf puts the authorities of several files into one pool. LoadCAs has looked
// at them more strictly.
func poolOf(files [][]byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, pem := range files {
		if !pool.AppendCertsFromPEM(pem) {
			return nil, errors.New("a file of authorities of callers holds no certificate")
		}
	}
	return pool, nil
}

func (f *kubeFlags) newKeeper(api apiServer, advertise boot.List, log *slog.Logger) (*keeper.Keeper, error) {
	secret, err := keeper.ParseName(f.tlsSecret)
	if err != nil {
		return nil, fmt.Errorf("--tls-secret: %w", err)
	}
	cfg := keeper.Config{
		APIServer: api.url, CAFile: api.ca, TokenFile: api.token,
		Secret: secret, Advertise: advertise, Log: log,
	}
	for _, s := range f.caConfigMaps {
		name, err := keeper.ParseName(s)
		if err != nil {
			return nil, fmt.Errorf("--ca-configmap: %w", err)
		}
		cfg.Publish = append(cfg.Publish, name)
	}
	return keeper.New(cfg)
}
