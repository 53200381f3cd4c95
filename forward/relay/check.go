package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// The steps of a check, in their order.
const (
	stepAuthorized = "authorized"
	stepLocated    = "located"
	stepRules      = "relay-policy"
	stepAgent      = "agent"
	stepPolicy     = "policy"
)

// Check goes the way of a stream to a port of a pod without opening it, within
// OpenTimeout.
func (v *viewService) Check(ctx context.Context, req *controlv1.CheckRequest) (*controlv1.CheckResponse, error) {
	p, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	t, err := checked(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, v.srv.cfg.OpenTimeout)
	defer cancel()
	f := &flow{target: t}
	w := &way{srv: v.srv, flow: f, who: p.who, valid: p.valid}
	for {
		c := &survey{way: w, out: &controlv1.CheckResponse{}}
		err := c.walk(ctx)
		if err == nil {
			return c.out, nil
		}
		if c.asked && w.misplaced(stream.CodeOf(err)) {
			continue
		}
		if stream.CodeOf(err) == stream.Internal {
			v.srv.noise.warn(ctx, "check failed", "user", p.who().Name, "pod", t.Namespace+"/"+t.Pod, "err", err)
		}
		return c.out, nil
	}
}

// checked returns the target of a request, if it could be that of a stream.
func checked(req *controlv1.CheckRequest) (Target, error) {
	t := Target{Namespace: req.GetNamespace(), Pod: req.GetPod(), Port: uint16(req.GetPort())}
	_, err := stream.AppendOpen(nil, &stream.Open{Kind: stream.KindForward, Port: max(t.Port, 1), Namespace: t.Namespace, Pod: t.Pod})
	switch {
	case err != nil:
		return t, status.Error(codes.InvalidArgument, stream.TextOf(err))
	case t.Namespace == "" || t.Pod == "":
		return t, status.Error(codes.InvalidArgument, "namespace or pod is missing")
	case req.GetPort() > 65535:
		return t, status.Errorf(codes.InvalidArgument, "port %d is not a number from 1 to 65535", req.GetPort())
	}
	return t, nil
}

// survey is one walk along the way to a pod.
type survey struct {
	way   *way
	out   *controlv1.CheckResponse
	asked bool // a node was
}

// step notes how a step went and returns its error.
func (c *survey) step(name, found string, err error) error {
	s := &controlv1.CheckStep{Name: name, Code: uint32(stream.CodeOf(err)), Detail: found}
	if err != nil {
		s.Detail = stream.TextOf(err)
		if s.GetDetail() == "" {
			s.Detail = "the relay could not find out: " + stream.CodeOf(err).String() + "; its log may tell why"
		}
	}
	c.out.Steps = append(c.out.GetSteps(), s)
	return err
}

func (c *survey) walk(ctx context.Context) error {
	w, t := c.way, c.way.flow.target
	if err := c.step(stepAuthorized, fmt.Sprintf("user %s may reach pod %s in namespace %s", w.who().Name, t.Pod, t.Namespace), w.allowed(ctx)); err != nil {
		return err
	}
	at, err := w.srv.cfg.Locate.Locate(ctx, w.who(), t)
	if c.step(stepLocated, fmt.Sprintf("on node %s", at.Node), err) != nil {
		return err
	}
	d, err := w.permitted(ctx, at)
	if c.step(stepRules, "the relay's policy lets it pass: "+d.Why(), err) != nil {
		return err
	}
	w.flow.at.Store(&at)
	c.out.Node, c.out.Uid = at.Node, at.UID
	c.asked = true
	verdict, on, err := w.srv.describe(ctx, at, t.Port)
	if on != nil {
		c.out.AgentVersion = on.version
	}
	if c.step(stepAgent, "the agent answers and knows the pod", err) != nil || t.Port == 0 {
		return err
	}
	if !verdict.GetAllowed() {
		err = &stream.Error{Code: stream.Policy, Text: plain(verdict.GetReason())}
	}
	return c.step(stepPolicy, fmt.Sprintf("the agent lets port %d through", t.Port), err)
}

// plain makes one line that a terminal can be shown of what an agent said.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, clip(s))
}

// describe asks the agent of a node about a pod. on is the tunnel that was asked
// last, nil if there is none.
func (s *Server) describe(ctx context.Context, at Place, port uint16) (verdict *controlv1.DescribeResponse, on *tunnelTo, err error) {
	err = offline(at.Node)
	tunnels, _ := s.nodes.tunnels(at.Node)
	for _, on = range tunnels {
		if verdict, err = ask(ctx, on, at.UID, port); err == nil {
			return verdict, on, nil
		}
		if on.sess.Err() == nil {
			break // it lives: another tunnel would know no better
		}
	}
	return nil, on, err
}

func ask(ctx context.Context, t *tunnelTo, uid string, port uint16) (*controlv1.DescribeResponse, error) {
	cc, err := rpc.Dial(func(ctx context.Context) (net.Conn, error) {
		return openOn(ctx, t.sess, &stream.Open{Kind: stream.KindControl, ID: stream.NewID()}, false)
	})
	if err != nil {
		return nil, err
	}
	defer cc.Close()
	out, err := controlv1.NewNodeClient(cc).Describe(ctx, &controlv1.DescribeRequest{Uid: uid, Port: uint32(port)})
	if err == nil {
		return out, nil
	}
	st := status.Convert(err)
	refusal := &stream.Error{Code: stream.Unreachable, Text: fmt.Sprintf("node %s does not answer: %s", t.node, plain(st.Message()))}
	switch {
	case st.Code() == codes.NotFound:
		refusal.Code, refusal.Text = stream.PodNotFound, fmt.Sprintf("node %s says: %s", t.node, plain(st.Message()))
	case st.Code() == codes.DeadlineExceeded, errors.Is(ctx.Err(), context.DeadlineExceeded):
		refusal.Code, refusal.Text = stream.Timeout, fmt.Sprintf("node %s did not answer in time", t.node)
	case st.Code() == codes.Unimplemented:
		refusal.Code, refusal.Text = stream.Unsupported, fmt.Sprintf("the agent of node %s is too old to be asked", t.node)
	}
	return nil, refusal
}
