package keeper

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/authority"
)

func isWrite(r *http.Request, resource string) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, resource)
}

// Many replicas start at once: one makes the certificates, all serve them.
func TestReplicasAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		var all []*replica
		for range 7 {
			r, _ := run(t, s, nil)
			if r.Ready() {
				t.Error("ready without a certificate")
			}
			all = append(all, r)
		}
		synctest.Wait()
		time.Sleep(settle)
		first := all[0].leaf(t, s)
		made := 0
		for _, r := range all {
			if !r.Ready() || !r.leaf(t, s).Equal(first) || !r.NotAfter().Equal(first.NotAfter) {
				t.Error("a replica serves something else")
			}
			made += strings.Count(r.log.String(), "relay certificates written")
			wantLog(t, r, 0, "level=ERROR")
		}
		if _, writes := s.counts(); writes != 1 || made != 1 {
			t.Errorf("%d writes, %d in the logs", writes, made)
		}
		if s.published()["address"] != "relay.test:7443" || s.secret.Labels["app"] != "culvert" {
			t.Error("what else is in the objects is gone")
		}
	})
}

func TestNoCertificateYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.failWith(func(*http.Request) int { return hangUp })
		r, stop := run(t, s, nil)
		time.Sleep(time.Hour)
		if cert, err := r.GetCertificate(nil); err == nil || cert != nil || r.Ready() || !r.NotAfter().IsZero() {
			t.Error("a certificate out of nothing")
		}
		// The pauses grow up to PollEvery: about 60 in the first hour.
		wantLog(t, r, 1, "level=ERROR") // the same complaint is not repeated
		s.failWith(nil)
		time.Sleep(2 * time.Minute)
		r.leaf(t, s)
		stop()
	})
}

func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		n := 0
		s.before = func(s *store, r *http.Request) {
			if strings.Contains(r.URL.Path, secrets) {
				n++
			}
		}
		s.failWith(func(*http.Request) int { return http.StatusServiceUnavailable })
		_, stop := run(t, s, nil)
		time.Sleep(10 * time.Minute)
		stop()
		if n < 10 || n > 25 {
			t.Errorf("%d attempts in ten minutes", n)
		}
	})
}

// A replica that reads what another one renewed serves it without a restart.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		rarely := func(c *Config) { c.PollEvery = 5 * day }
		a, _ := run(t, s, rarely)
		b, _ := run(t, s, rarely)
		time.Sleep(15 * day)
		first := a.leaf(t, s)
		time.Sleep(250 * day)
		second := a.leaf(t, s)
		if second.Equal(first) || !second.Equal(b.leaf(t, s)) {
			t.Error("not renewed, or not by all")
		}
		if _, writes := s.counts(); writes != 2 {
			t.Errorf("%d writes", writes)
		}
		time.Sleep(2 * authority.ServingLife)
		if !a.Ready() || !a.leaf(t, s).Equal(b.leaf(t, s)) {
			t.Error("after two years")
		}
	})
}

func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		a, _ := run(t, s, func(c *Config) { c.PollEvery = 30 * time.Minute })
		b, _ := run(t, s, func(c *Config) { c.PollEvery = 30 * time.Minute })
		time.Sleep(2 * time.Hour)
		first, firstCA := a.leaf(t, s), parseCAs(t, s.published()[caCert])[0]
		s.edit(func(data map[string][]byte) { delete(data, caKey) })
		time.Sleep(2 * time.Hour)
		published := parseCAs(t, s.published()[caCert])
		if len(published) != 2 || published[0].Equal(firstCA) || !published[1].Equal(firstCA) {
			t.Fatalf("%d authorities are published", len(published))
		}
		if !a.leaf(t, s).Equal(first) || !b.leaf(t, s).Equal(first) {
			t.Error("the new authority is used before anybody can know it")
		}
		time.Sleep(day)
		second := a.leaf(t, s)
		if second.CheckSignatureFrom(published[0]) != nil || !b.leaf(t, s).Equal(second) {
			t.Error("the new authority is not used")
		}
		if _, writes := s.counts(); writes != 3 {
			t.Errorf("%d writes", writes)
		}
		// Everything anew, at once.
		s.edit(func(data map[string][]byte) { clear(data) })
		time.Sleep(2 * time.Hour)
		if cas := parseCAs(t, s.published()[caCert]); len(cas) != 1 || !b.leaf(t, s).Equal(a.leaf(t, s)) || a.leaf(t, s).Equal(second) {
			t.Error("not made anew")
		}
	})
}

// What only a person can put right is left alone, said once, and what is served
// stays.
func TestBadContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		r, _ := run(t, s, nil)
		time.Sleep(settle)
		good, leaf := s.data(), r.leaf(t, s)
		s.edit(func(data map[string][]byte) { data[caKey] = []byte("garbage") })
		time.Sleep(time.Hour)
		fresh, _ := run(t, s, nil) // a replica that starts now has nothing
		time.Sleep(time.Hour)
		if fresh.Ready() || !r.Ready() || !r.leaf(t, s).Equal(leaf) {
			t.Error("wrong certificate")
		}
		if string(s.data()[caKey]) != "garbage" {
			t.Error("overwritten")
		}
		wantLog(t, r, 1, "restore it, or remove ca.key for a new authority")
		wantLog(t, r, 1, "level=ERROR")
		s.edit(func(data map[string][]byte) { data[caKey] = good[caKey] })
		time.Sleep(settle)
		if !fresh.leaf(t, s).Equal(leaf) {
			t.Error("not taken up again")
		}
	})
}

func TestServerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		r, _ := run(t, s, func(c *Config) { c.PollEvery = day })
		time.Sleep(3 * day)
		leaf := r.leaf(t, s)
		s.failWith(func(*http.Request) int { return hangUp })
		time.Sleep(30 * day)
		if !r.Ready() || !r.leaf(t, s).Equal(leaf) {
			t.Error("not served")
		}
		time.Sleep(authority.ServingLife)
		if r.Ready() {
			t.Error("ready with a certificate that is over")
		}
		s.failWith(nil)
		time.Sleep(3 * day)
		if !r.Ready() || r.leaf(t, s).Equal(leaf) {
			t.Error("not taken up again")
		}
	})
}

// A relay that may not write serves what is there.
func TestReadOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		_, stop := run(t, s, nil)
		time.Sleep(settle)
		stop()
		s.failWith(func(r *http.Request) int {
			if isWrite(r, secrets) {
				return http.StatusForbidden
			}
			return 0
		})
		r, _ := run(t, s, func(c *Config) { c.Advertise = append(c.Advertise, "more.test") })
		time.Sleep(settle)
		r.leaf(t, s)
		wantLog(t, r, 1, "give the relay's service account get and update")
	})
}

func TestConflicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		left := 4
		s.failWith(func(r *http.Request) int {
			if isWrite(r, secrets) && left > 0 {
				left--
				return http.StatusConflict
			}
			return 0
		})
		r, _ := run(t, s, nil)
		time.Sleep(10 * time.Second) // sooner than after other errors
		r.leaf(t, s)
		wantLog(t, r, 0, "level=ERROR")
	})
}

func TestConfigMaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		missing := true
		s.failWith(func(r *http.Request) int {
			if missing && strings.Contains(r.URL.Path, configMaps) {
				return http.StatusNotFound
			}
			return 0
		})
		r, _ := run(t, s, nil)
		time.Sleep(settle)
		if _, err := r.GetCertificate(nil); err != nil || r.Ready() {
			t.Errorf("ready although nobody can know the authority, %v", err)
		}
		wantLog(t, r, 1, "kubectl create configmap --namespace culvert-system culvert-relay-ca")
		s.failWith(nil)
		time.Sleep(settle)
		if r.leaf(t, s); !r.Ready() {
			t.Error("not ready")
		}
		// What somebody else writes there does not stay.
		s.editMap(func(data map[string]string) { data[caCert] = "garbage" })
		time.Sleep(settle)
		r.leaf(t, s)
		if s.published()["address"] == "" {
			t.Error("the address is gone")
		}
	})
}

// Who was held up between reading and writing does not put back old authorities.
func TestLatePublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		late, _ := run(t, s, nil)
		time.Sleep(settle)
		late.leaf(t, s)
		s.edit(func(data map[string][]byte) { delete(data, caKey) })
		// While late reads the ConfigMap and then the Secret, another replica does
		// the whole rotation.
		other, err := New(late.cfg)
		if err != nil {
			t.Fatal(err)
		}
		held := false
		s.mu.Lock()
		s.before = func(s *store, r *http.Request) {
			if held || !strings.Contains(r.URL.Path, secrets) {
				return
			}
			held = true
			s.mu.Unlock()
			defer s.mu.Lock()
			if err := other.round(context.Background()); err != nil {
				t.Error(err)
			}
		}
		s.mu.Unlock()
		time.Sleep(settle)
		if n := len(parseCAs(t, s.published()[caCert])); !held || n != 2 {
			t.Errorf("%d authorities are published", n)
		}
		wantLog(t, late, 0, "level=ERROR")
	})
}

func TestAuthorityEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		r, _ := run(t, s, func(c *Config) { c.PollEvery = 10 * day })
		time.Sleep(authority.Life - authority.Notice - 20*day)
		wantLog(t, r, 0, "authority ends")
		time.Sleep(60 * day)
		wantLog(t, r, 1, "authority ends")
	})
}
