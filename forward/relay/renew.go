package relay

import (
	"context"
	"crypto/x509"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const maxCSR = 8 << 10

// Renew replaces a node's credential, also for the session it comes over.
func (r *registryService) Renew(ctx context.Context, req *controlv1.RenewRequest) (*controlv1.RenewResponse, error) {
	p, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	renew := r.renewCertificate
	if req.GetToken() != "" {
		renew = r.renewToken
	}
	resp, err := renew(ctx, p, req)
	if err != nil {
		r.srv.metrics.refused("renewal")
		r.srv.noise.warn(ctx, "renewal refused", "role", p.who().Role.String(), "name", p.who().Name, "err", err)
		return nil, statusOf(err)
	}
	return resp, nil
}

// renewCertificate has the Issuer sign the next certificate of a node that came
// with one of its.
func (r *registryService) renewCertificate(_ context.Context, p *peer, req *controlv1.RenewRequest) (*controlv1.RenewResponse, error) {
	who := p.who()
	if who.Role != RoleNode || who.Cert == nil || r.srv.cfg.Issuer == nil {
		return nil, status.Error(codes.PermissionDenied, "this relay renews only what it issued")
	}
	if err := checkCSR(req.GetCsr()); err != nil {
		return nil, err
	}
	chain, renewAt, err := r.srv.cfg.Issuer.RenewNode(who.Cert, req.GetCsr())
	if err != nil {
		return nil, err
	}
	if leaf := leafOf(chain); leaf != nil {
		who.Cert = leaf
		p.is.Store(&who)
	}
	r.srv.cfg.Log.Info("node certificate renewed", "node", who.Name)
	return &controlv1.RenewResponse{Chain: chain, RenewAt: timestamppb.New(renewAt)}, nil
}

// renewToken judges the next token of a node that came with one. It must be the
// same node's: nobody becomes another one on a session.
func (r *registryService) renewToken(ctx context.Context, p *peer, req *controlv1.RenewRequest) (*controlv1.RenewResponse, error) {
	who := p.who()
	judge, ok := r.srv.cfg.Auth.(TokenRenewer)
	if !ok || who.Role != RoleNode || who.Cert != nil {
		return nil, status.Error(codes.PermissionDenied, "this session did not present a token of a node")
	}
	if n := len(req.GetToken()); n > stream.MaxToken || len(req.GetCsr()) > 0 {
		return nil, status.Errorf(codes.InvalidArgument, "a token of at most %d bytes and no certificate request is wanted here", stream.MaxToken)
	}
	ctx, cancel := context.WithTimeout(ctx, r.srv.cfg.OpenTimeout)
	defer cancel()
	next, renewAt, err := judge.RenewToken(ctx, who, req.GetToken())
	if err != nil {
		return nil, err
	}
	if next.Role != RoleNode || next.Name != who.Name {
		return nil, &stream.Error{Code: stream.Unauthenticated, Text: "the token is for somebody else"}
	}
	p.is.Store(&next)
	r.srv.cfg.Log.Debug("node token renewed", "node", who.Name)
	return &controlv1.RenewResponse{RenewAt: timestamppb.New(renewAt)}, nil
}

func checkCSR(csr []byte) error {
	if len(csr) > maxCSR {
		return status.Errorf(codes.InvalidArgument, "certificate request of %d bytes, at most %d are allowed", len(csr), maxCSR)
	}
	return nil
}

func leafOf(chain [][]byte) *x509.Certificate {
	if len(chain) == 0 {
		return nil
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil
	}
	return leaf
}

func nameIn(chain [][]byte) string {
	if leaf := leafOf(chain); leaf != nil {
		return leaf.Subject.CommonName
	}
	return ""
}
