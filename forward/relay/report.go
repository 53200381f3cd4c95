package relay

import (
	"crypto/tls"
	"errors"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/audit"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// errUnaudited is what clients hear from a relay that must write down what they do
// and cannot.
var errUnaudited = &stream.Error{
	Code: stream.Overloaded, Text: "the relay opens nothing while it cannot write its audit log; try again, or ask who runs it",
}

// accepted reports that the pod has accepted a stream.
func (s *Server) accepted(f *flow) {
	f.opened.Store(true)
	s.metrics.opening.Observe(f.door, time.Since(f.started))
	if s.cfg.Audit != nil {
		s.cfg.Audit.Write(f.record(audit.StreamOpen))
	}
}

// report writes the one line a stream leaves and counts it.
func (s *Server) report(f *flow, v verdict) {
	up, down := f.bytes()
	at := f.place()
	if d := f.judged.Load(); d != nil {
		s.metrics.policy(d.Verdict())
	}
	s.metrics.stream(v.code, f.door)
	if v.code == stream.Stopped {
		s.metrics.stopped.Inc()
	}
	s.cfg.Log.Info("stream",
		"id", f.id.String(), "door", f.door, "user", f.user, "from", f.from, "node", at.Node,
		"pod", f.target.Namespace+"/"+f.target.Pod, "uid", at.UID, "port", f.target.Port,
		"bytes_up", up, "bytes_down", down,
		"code", v.code.String(), "reason", v.text, "policy", f.verdict(), "trace", f.trace.TraceID(),
		"duration", time.Since(f.started).Round(time.Microsecond).String())
	s.audited(f, v)
}

// audited writes down how a stream ended.
func (s *Server) audited(f *flow, v verdict) {
	if s.cfg.Audit == nil {
		return
	}
	event := audit.StreamRefused
	if f.opened.Load() {
		event = audit.StreamEnd
	}
	r := f.record(event)
	r.Code, r.Reason = v.code.String(), v.text
	if v.code == stream.Stopped {
		r.StoppedBy = f.stopper.who()
	}
	r.Up, r.Down = f.bytes()
	s.cfg.Audit.Write(r)
}

// record is what the audit log says of a stream at any time.
func (f *flow) record(event audit.Event) audit.Record {
	at := f.place()
	r := audit.Record{
		Event: event, Stream: f.id.String(), Trace: f.trace.TraceID(), Door: f.door, User: f.user, Groups: f.groups, From: f.from,
		Namespace: f.target.Namespace, Pod: f.target.Pod, Port: f.target.Port, UID: at.UID, Node: at.Node,
		Started: f.started,
	}
	if sess := f.via.Load(); sess != nil {
		r.Agent = sess.RemoteAddr().String()
	}
	r.Policy = f.verdict()
	return r
}

// shutOut writes down that a peer was not let in. What has not come as far as a
// credential is a port scan, or a relay that goes away.
func (s *Server) shutOut(v *visitor, protocol string, who Identity, err error) {
	said := (*stream.Error)(nil)
	strange := errors.As(err, new(*tls.CertificateVerificationError))
	if s.cfg.Audit == nil || !strange && (!errors.As(err, &said) || said.Code == stream.GoingAway) {
		return
	}
	r := audit.Record{
		Event: audit.AccessRefused, From: v.conn.RemoteAddr().String(), Code: stream.CodeOf(err).String(), Reason: err.Error(),
	}
	if stream.CodeOf(err) == stream.Unauthenticated {
		who = Identity{} // what he said, and nothing he proved
	}
	switch {
	case strange:
		r.Code = stream.Unauthenticated.String()
	case protocol == stream.ALPNClient:
		r.Door, r.User, r.Groups = doorTunnel, who.Name, who.Groups
	case protocol == stream.ALPNAgent:
		r.Role, r.Node = RoleNode.String(), who.Name
	}
	s.cfg.Audit.Write(r)
}

// expelled writes down that a peer that was here may be so no more.
func (s *Server) expelled(p *peer, err error) {
	if s.cfg.Audit == nil {
		return
	}
	who := p.who()
	r := audit.Record{
		Event: audit.AccessRefused, From: p.sess.RemoteAddr().String(), Code: stream.CodeOf(err).String(), Reason: err.Error(),
	}
	if who.Role == RoleUser {
		r.Door, r.User, r.Groups = doorTunnel, who.Name, who.Groups
	} else {
		r.Role, r.Node = who.Role.String(), who.Name
	}
	s.cfg.Audit.Write(r)
}
