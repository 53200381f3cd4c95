package keeper

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/culvert-k8s/culvert/forward/relay/authority"
)

const (
	firstPause    = time.Second            // after an attempt that failed
	conflictPause = 100 * time.Millisecond // after another replica was quicker
)

// Keeper serves the certificate in the Secret and sees to it that there is one.
// Make one with New and Run it. Safe for concurrent use.
type Keeper struct {
	cfg     Config
	want    wanted
	objects *objects

	serving   atomic.Pointer[tls.Certificate]
	published atomic.Bool // every ConfigMap has had the authorities once

	// Of Run alone.
	said   string // the last complaint
	noted  bool   // that the authority ends soon
	leafID string // serial of the serving certificate that the log knows
}

// New makes a Keeper. It does not talk to the API server yet.
func New(cfg Config) (*Keeper, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("relay certificates in a Secret: %w", err)
	}
	cfg = cfg.withDefaults()
	hosts, err := authority.Hosts(cfg.Advertise)
	if err != nil {
		return nil, fmt.Errorf("relay certificates in a Secret: %w", err)
	}
	k := &Keeper{cfg: cfg, want: wanted{hosts: hosts, overlap: cfg.Overlap}}
	if k.objects, err = newObjects(&k.cfg); err != nil {
		return nil, fmt.Errorf("relay certificates in a Secret: %w", err)
	}
	return k, nil
}

// GetCertificate has the shape of tls.Config.GetCertificate. The result must not
// be changed.
func (k *Keeper) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert := k.serving.Load(); cert != nil {
		return cert, nil
	}
	return nil, errors.New("the relay has no certificate yet")
}

// Ready reports whether there is a certificate that is not over, and whoever
// dials the relay could learn of its authority.
func (k *Keeper) Ready() bool {
	cert := k.serving.Load()
	return cert != nil && time.Now().Before(cert.Leaf.NotAfter) && k.published.Load()
}

// NotAfter returns the end of the serving certificate, the zero time if there is
// none.
func (k *Keeper) NotAfter() time.Time {
	if cert := k.serving.Load(); cert != nil {
		return cert.Leaf.NotAfter
	}
	return time.Time{}
}

// Run keeps the certificates until ctx ends, and then returns nil. What goes
// wrong is logged and tried again; what is served stays.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.objects.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		err := k.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			failures = 0
			k.said = ""
			timer.Reset(jitter(k.cfg.PollEvery))
			continue
		}
		pause := firstPause
		if apierrors.IsConflict(err) {
			pause = conflictPause
		} else {
			k.complain(err)
		}
		timer.Reset(jitter(min(pause<<min(failures, 20), k.cfg.PollEvery)))
		failures++
	}
}

// jitter spreads d by a fifth to both sides.
func jitter(d time.Duration) time.Duration {
	fifth := d / 5
	return d - fifth + rand.N(2*fifth+1) //nolint:gosec // no secret
}

// complain logs what is new.
func (k *Keeper) complain(err error) {
	if text := err.Error(); text != k.said {
		k.said = text
		k.cfg.Log.Error("relay certificates", "err", err, "serving", k.serving.Load() != nil)
	}
}

// round looks at everything once and puts right what it can.
func (k *Keeper) round(ctx context.Context) error {
	// The ConfigMaps are read before the Secret: what is then written to them is
	// no older than what somebody else has written, or it is a conflict.
	maps, mapsErr := k.readMaps(ctx)
	var secret corev1.Secret
	if err := k.objects.get(ctx, secrets, k.cfg.Secret, &secret); err != nil {
		return err
	}
	v, err := k.want.judge(secret.Data, time.Now())
	if err != nil {
		return fmt.Errorf("the content of Secret %s cannot be used: %w", k.cfg.Secret, err)
	}
	if v.current != nil {
		k.serve(v.current) // whatever becomes of the writing
	}
	if v.change != nil {
		if err := k.write(ctx, &secret, v); err != nil {
			return err
		}
	}
	k.serve(v.next)
	k.notice(v.signer)
	return errors.Join(mapsErr, k.publish(ctx, maps, v.trusted))
}

func (k *Keeper) write(ctx context.Context, secret *corev1.Secret, v *verdict) error {
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	maps.Copy(secret.Data, v.change)
	if err := k.objects.update(ctx, secrets, k.cfg.Secret, secret); err != nil {
		return err
	}
	k.cfg.Log.Info("relay certificates written", "secret", k.cfg.Secret.String(), "why", strings.Join(v.reasons, "; "))
	return nil
}

// serve puts a certificate in the place of the one before.
func (k *Keeper) serve(cert *tls.Certificate) {
	if cert == nil {
		return
	}
	if id := cert.Leaf.SerialNumber.String(); id != k.leafID {
		k.leafID = id
		k.cfg.Log.Info("relay certificate", "names", authority.HostsOf(cert.Leaf), "until", cert.Leaf.NotAfter, "authority", cert.Leaf.Issuer.CommonName)
	}
	k.serving.Store(cert)
}

// notice says once that an authority is about to end, for nobody can do anything
// about it but a person.
func (k *Keeper) notice(signer *x509.Certificate) {
	if k.noted || time.Now().Add(authority.Notice).Before(signer.NotAfter) {
		return
	}
	k.noted = true
	k.cfg.Log.Warn("the relay's authority ends; to replace it, remove ca.key from the Secret", "secret", k.cfg.Secret.String(), "until", signer.NotAfter)
}

// readMaps reads the ConfigMaps. One that cannot be read is nil and does not keep
// the others from being published.
func (k *Keeper) readMaps(ctx context.Context) ([]*corev1.ConfigMap, error) {
	all := make([]*corev1.ConfigMap, len(k.cfg.Publish))
	var errs []error
	for i, name := range k.cfg.Publish {
		var m corev1.ConfigMap
		if err := k.objects.get(ctx, configMaps, name, &m); err != nil {
			errs = append(errs, err)
			continue
		}
		all[i] = &m
	}
	return all, errors.Join(errs...)
}

func (k *Keeper) publish(ctx context.Context, all []*corev1.ConfigMap, trusted []*x509.Certificate) error {
	want := string(authority.EncodeCerts(trusted...))
	var errs []error
	done := true
	for i, m := range all {
		if m == nil {
			done = false
			continue
		}
		if m.Data[caCert] == want {
			continue
		}
		if m.Data == nil {
			m.Data = map[string]string{}
		}
		m.Data[caCert] = want
		if err := k.objects.update(ctx, configMaps, k.cfg.Publish[i], m); err != nil {
			errs = append(errs, err)
			done = false
			continue
		}
		k.cfg.Log.Info("relay authority published", "configmap", k.cfg.Publish[i].String())
	}
	if done {
		k.published.Store(true)
	}
	return errors.Join(errs...)
}
