package client

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"google.golang.org/grpc"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// maxLooks bounds the dials of one search for another relay, and maxAddresses
	// what one name of a relay may stand for in it.
	maxLooks, maxAddresses = 8, 64
	// vainPause is how long nobody looks again where nothing was found. Who looks only to
	// show what there is, again and again, waits twice as long after each time, up to
	// vainMost.
	vainPause, vainMost = 5 * time.Second, time.Minute
	// idleTime is how long a session beside the current one is kept without streams.
	idleTime = time.Minute
	// maxSpread bounds how long a relay may ask to wait before it is replaced.
	maxSpread = 30 * time.Second
)

// vain are looks for another relay that brought none, the last ones in a row.
type vain struct {
	last  time.Time
	times int
}

// pause tells whether it is too early for another look.
func (v vain) pause(patient bool) bool {
	pause := vainPause
	for i := 1; patient && i < v.times && pause < vainMost; i++ {
		pause = min(2*pause, vainMost)
	}
	return v.times > 0 && time.Since(v.last) < pause
}

// beside tells whether another relay may know the way that this one does not: the
// agent of the pod's node may be there already, or still. The next try goes to it.
func (a *attempt) beside(ctx context.Context, refusal error) bool {
	code := stream.CodeOf(refusal)
	if code != stream.AgentOffline && code != stream.PodNotFound || a.tries >= maxTries || a.ctx.Err() != nil {
		return false
	}
	ctx, cancel := context.WithDeadline(ctx, a.until)
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)()
	here, err := a.cur.Load().link.ask(ctx)
	if err != nil || code == stream.PodNotFound && !here.GetByReport() {
		return false
	}
	if here.GetRelays() < 2 && len(a.client.cfg.Relays) < 2 {
		return false
	}
	if a.asked == nil {
		a.asked = make(map[string]bool)
	}
	a.asked[here.GetRelayId()] = true
	a.via = a.client.another(ctx, a.asked, false)
	if a.via != nil {
		a.tries++
	}
	return a.via != nil
}

// podElsewhere looks for a pod at the relays that the current session does not lead
// to, nil if there is none.
func (c *Client) podElsewhere(ctx context.Context, namespace, name string) *controlv1.Pod {
	asked := make(map[string]bool)
	for l := c.present(); l != nil; l = c.another(ctx, asked, false) {
		about, err := l.ask(ctx)
		if err != nil || !about.GetByReport() || about.GetRelays() < 2 && len(c.cfg.Relays) < 2 {
			return nil
		}
		if len(asked) > 0 {
			answer, err := controlv1.NewViewClient(l.control()).ListPods(ctx, &controlv1.ListPodsRequest{Namespace: namespace}, grpc.MaxCallRecvMsgSize(maxView))
			if p := podIn(answer.GetPods(), namespace, name); err == nil && p != nil {
				return p
			}
		}
		asked[about.GetRelayId()] = true
		if n := int(about.GetRelays()); n > 0 && len(asked) >= max(n, len(c.cfg.Relays)) {
			return nil // that was all of them
		}
	}
	return nil
}

// ask returns what the relay says of itself, which it is asked once.
func (l *link) ask(ctx context.Context) (*controlv1.AboutResponse, error) {
	if about := l.about.Load(); about != nil {
		return about, nil
	}
	about, err := controlv1.NewViewClient(l.control()).About(ctx, &controlv1.AboutRequest{})
	if err != nil {
		return nil, err
	}
	l.about.Store(about)
	return about, nil
}

// another returns a session to a relay that was not asked yet, nil if there is none
// to be had. It stays beside the current one, for whoever needs it too. Nobody waits
// for who is patient.
func (c *Client) another(ctx context.Context, asked map[string]bool, patient bool) *link {
	if l, _ := c.known(asked, patient); l != nil {
		return l
	}
	select {
	case c.looking <- struct{}{}:
		defer func() { <-c.looking }()
	case <-ctx.Done():
		return nil
	}
	l, early := c.known(asked, patient)
	if l != nil || early {
		return l
	}
	l = c.look(ctx, asked)
	c.mu.Lock()
	defer c.mu.Unlock()
	if l != nil {
		c.vain.times = 0
	} else {
		c.vain.last = time.Now()
		c.vain.times++
	}
	return l
}

// known returns a session that there is to a relay that was not asked yet, and
// whether there was none to be found a moment ago.
func (c *Client) known(asked map[string]bool, patient bool) (l *link, early bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range append([]*link{c.cur}, c.others...) {
		if l == nil || l.dead() {
			continue
		}
		if about := l.about.Load(); about != nil && !asked[about.GetRelayId()] {
			l.used = time.Now()
			return l, false
		}
	}
	return nil, c.vain.pause(patient) || c.ended != nil
}

// look dials until it meets a relay that was not asked: each address of each relay
// that was given, and again, as one address may lead to several.
func (c *Client) look(ctx context.Context, asked map[string]bool) *link {
	at := c.addresses(ctx)
	if len(at) == 0 {
		return nil
	}
	for i := range max(maxLooks, len(at)) {
		if ctx.Err() != nil {
			return nil
		}
		relay := at[i%len(at)]
		s, err := c.attachWithin(ctx, relay)
		if err != nil {
			continue
		}
		l := newLink(s, relay)
		about, err := l.ask(ctx)
		if err != nil || asked[about.GetRelayId()] || !c.addOther(l) {
			_ = l.Close() // never used
			continue
		}
		return l
	}
	return nil
}

// addresses returns what the relays that were given stand for, in no order.
func (c *Client) addresses(ctx context.Context) []Relay {
	var out []Relay
	for _, r := range c.cfg.Relays {
		host, port, err := net.SplitHostPort(r.Addr)
		if err != nil || !c.resolves(r.Addr, host) {
			out = append(out, r)
			continue
		}
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			continue
		}
		for _, ip := range ips[:min(len(ips), maxAddresses)] {
			r.at = net.JoinHostPort(ip.Unmap().String(), port)
			out = append(out, r)
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] }) //nolint:gosec // nobody gains from guessing it
	return out
}

// resolves tells whether the addresses of a name are to be found here, not by a proxy.
func (c *Client) resolves(addr, host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	if c.cfg.Proxy == nil {
		return true
	}
	proxy, err := c.cfg.Proxy(&url.URL{Scheme: "https", Host: addr})
	return proxy == nil && err == nil
}

// addOther keeps a session beside the current one. It is false if the Client has
// ended.
func (c *Client) addOther(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return false
	}
	l.used = time.Now()
	c.others = append(c.others, l)
	return true
}

// closeIdle ends the sessions beside the current one that nobody needs any more.
func (c *Client) closeIdle() {
	c.mu.Lock()
	var gone []*link
	c.others = slices.DeleteFunc(c.others, func(l *link) bool {
		if !l.dead() && (l.NumStreams() > 1 || time.Since(l.used) < idleTime) { // one is that of the questions
			return false
		}
		gone = append(gone, l)
		return true
	})
	c.mu.Unlock()
	closeAll(gone)
}

// hope has the next look for another relay come soon: there may be a new one.
func (c *Client) hope() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.vain.times = min(c.vain.times, 1)
}

// listen hears what a relay says of itself until it goes away, which retires its
// session, or ctx ends.
func (c *Client) listen(ctx context.Context, l *link) {
	watch, err := controlv1.NewViewClient(l.control()).Watch(ctx, &controlv1.WatchRequest{})
	if err != nil {
		return
	}
	for {
		m, err := watch.Recv()
		if err != nil {
			return // the session has ended, or the relay is older than this question
		}
		if about := m.GetAbout(); about != nil {
			if before := l.about.Swap(about); before.GetRelays() != about.GetRelays() {
				c.hope()
			}
		}
		if bye := m.GetGoingAway(); bye != nil {
			c.retire(l, min(max(bye.GetSpread().AsDuration(), 0), maxSpread))
			return
		}
	}
}
