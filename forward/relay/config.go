package relay

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/audit"
	"github.com/culvert-k8s/culvert/forward/relay/policy"
	"github.com/culvert-k8s/culvert/forward/tunnel"
)

// Config is what a Server needs. TLS and Auth must be set.
type Config struct {
	// TLS is the server's side of the handshake. It must offer stream.ALPNAgent
	// and stream.ALPNClient, with HTTP also h2 and http/1.1, and nothing else.
	TLS *tls.Config

	// Auth says who a peer is.
	Auth Authenticator

	// Issuer makes node certificates. nil: agents cannot join here.
	Issuer Issuer

	// Locate finds pods. nil: from what the agents report.
	Locate Locator

	// Authorize decides on each stream. nil: every user may reach every pod
	// the agents let him.
	Authorize Authorizer

	// Policy returns what narrows further what Authorize allows, for each stream. nil,
	// and a nil policy: nothing but what pods say of themselves.
	Policy func() *policy.Policy

	// Oversee decides who is shown the nodes and other people's streams. nil:
	// everybody is.
	Oversee Overseer

	// HTTP makes the handler of the HTTP door: connections that ask for h2, for
	// http/1.1 or for no protocol at all are served by it, if TLS lets them in. The
	// handler sees the TLS state of the connection in the request; a connection that
	// it hijacks ends with it. The context of a request ends when the relay cuts what
	// runs, with the reason as its cause: of one that has hijacked nothing some seconds
	// after the end of Serve's context, of the others after DrainTimeout. HTTP is asked
	// once, by New, for a server that does not serve yet. nil: no such door.
	HTTP func(*Server) http.Handler

	// Peers are the relays that serve the same nodes and clients. The zero value
	// means that nothing is known of any.
	Peers Peers

	// RefuseHTTP answers a request for which the relay has no room; err is a
	// *stream.Error. nil: with a line of text and status 503.
	RefuseHTTP func(w http.ResponseWriter, r *http.Request, err error)

	// Version is shown to peers.
	Version string

	// Log gets one line for each stream and each session that ends. nil: none.
	Log *slog.Logger

	// Audit gets a record of each stream and of who was not let in. The caller closes
	// it, after Serve. nil: none.
	Audit *audit.Log

	// Tunnel sets the limits of each session.
	Tunnel tunnel.Config

	// MaxHandshakes bounds the connections not yet authenticated. One more
	// pushes out the one that has said nothing for longest. 0 means 512.
	MaxHandshakes int

	// MaxSessions bounds the sessions of agents and clients, and the connections of
	// the HTTP door that have made a request. A quarter of it is for agents alone.
	// 0 means 20,000.
	MaxSessions int

	// Limits bound what one user and one node may take of the relay.
	Limits Limits

	// MaxPodsPerNode bounds what one agent may report. 0 means 4,096.
	MaxPodsPerNode int

	// HandshakeTimeout bounds TLS and the credential. 0 means 10 s.
	HandshakeTimeout time.Duration

	// OpenTimeout bounds each step of opening a stream: reading Open, asking
	// who may, reaching the node, its answer. 0 means 15 s.
	OpenTimeout time.Duration

	// RevalidateEvery is how often a Revalidator is asked about each session
	// that lives on. 0 means 30 s.
	RevalidateEvery time.Duration

	// SettleTime is how long after the start a stream to a pod that no agent has
	// reported yet waits for the report: the agents of a relay that was started
	// again are on their way back. 0 means 5 s, less means not at all.
	SettleTime time.Duration

	// ReturnTime is how long after a node lost its last tunnel a stream to it waits
	// for its agent to come back. 0 means 2 s, less means not at all.
	ReturnTime time.Duration

	// DrainTimeout is how long running streams may go on after the end of
	// Serve's context. 0 means 30 s.
	DrainTimeout time.Duration
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxHandshakes, 512)
	setDefault(&c.MaxSessions, 20000)
	setDefault(&c.MaxPodsPerNode, 4096)
	setDefault(&c.HandshakeTimeout, 10*time.Second)
	setDefault(&c.OpenTimeout, 15*time.Second)
	setDefault(&c.RevalidateEvery, 30*time.Second)
	setDefault(&c.DrainTimeout, 30*time.Second)
	if c.SettleTime == 0 {
		c.SettleTime = 5 * time.Second
	}
	if c.ReturnTime == 0 {
		c.ReturnTime = 2 * time.Second
	}
	if c.Tunnel.Memory == nil {
		c.Tunnel.Memory = new(tunnel.Memory) // one for all sessions
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}
