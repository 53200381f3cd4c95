package keeper

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/authority"
)

// The keys of the Secret. ConfigMaps have caCert.
const (
	caKey       = "ca.key"
	caCert      = "ca.crt"
	servingKey  = "tls.key"
	servingCert = "tls.crt"
)

// maxCerts bounds the certificates in one value: authorities of ten years each,
// or a chain.
const maxCerts = 8

// wanted says what the content of the Secret should be.
type wanted struct {
	hosts   []string // of the serving certificate, in the form of authority.Hosts
	overlap time.Duration
}

// verdict is what is to be done about the content of the Secret.
type verdict struct {
	// current is the serving certificate in the content, nil if there is none that
	// can be served.
	current *tls.Certificate

	// signer is the authority that signs, and trusted are it and those before it,
	// after change has been written.
	signer  *x509.Certificate
	trusted []*x509.Certificate

	// change is what to write, nil for nothing. next is the serving certificate
	// once that is done, and reasons say why, for the log.
	change  map[string][]byte
	next    *tls.Certificate
	reasons []string
}

// judge looks at the content of the Secret. An error means that only a person
// can put it right, and says how.
func (w wanted) judge(data map[string][]byte, now time.Time) (*verdict, error) {
	ca, cas, err := readAuthorities(data, now)
	if err != nil {
		return nil, err
	}
	v := &verdict{change: map[string][]byte{}}
	if ca == nil {
		if ca, err = authority.New(now); err != nil {
			return nil, err
		}
		key, err := ca.EncodeKey()
		if err != nil {
			return nil, err
		}
		v.change[caKey] = key
		v.reasons = append(v.reasons, "new authority "+ca.Pin().String())
		cas = slices.Insert(cas, 0, ca.Cert)
		cas = cas[:min(len(cas), maxCerts)]
	}
	v.signer = ca.Cert
	v.trusted = slices.DeleteFunc(cas, func(c *x509.Certificate) bool { return now.After(c.NotAfter) })
	if err := w.serving(v, data, ca, now); err != nil {
		return nil, err
	}
	if len(v.change) == 0 {
		v.change = nil
		return v, nil
	}
	v.change[caCert] = authority.EncodeCerts(v.trusted...)
	return v, nil
}

// readAuthorities returns the authority that signs, nil if one is to be made, and
// all that ca.crt holds.
func readAuthorities(data map[string][]byte, now time.Time) (*authority.Authority, []*x509.Certificate, error) {
	if isEmpty(data) {
		return nil, nil, nil
	}
	cas, err := readCAs(data[caCert])
	if len(data[caKey]) == 0 {
		// A Secret that another program made looks like one whose key was removed.
		if err != nil || !slices.ContainsFunc(cas, authority.IsOwn) {
			return nil, nil, errors.New("what is there was not made by a relay: to serve certificates from elsewhere, mount the Secret and name its files with --tls-cert and --tls-key; to have them made here, empty the Secret")
		}
		return nil, cas, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w; restore it, or remove %s and %s for a new authority", caCert, err, caCert, caKey)
	}
	ca, err := signer(data[caKey], cas, now)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w; restore it, or remove %s for a new authority", caKey, err, caKey)
	}
	return ca, cas, nil
}

func isEmpty(data map[string][]byte) bool {
	for _, key := range []string{caKey, caCert, servingKey, servingCert} {
		if len(data[key]) > 0 {
			return false
		}
	}
	return true
}

func readCAs(b []byte) ([]*x509.Certificate, error) {
	cas, err := authority.ParseCerts(b, maxCerts)
	if err != nil {
		return nil, err
	}
	for _, ca := range cas {
		if !authority.IsAuthority(ca) {
			return nil, fmt.Errorf("certificate of %q is not that of an authority", ca.Subject)
		}
	}
	return cas, nil
}

// signer returns the authority that the key is of.
func signer(b []byte, cas []*x509.Certificate, now time.Time) (*authority.Authority, error) {
	key, _, err := authority.ParseKey(b)
	if err != nil {
		return nil, err
	}
	for _, cert := range cas {
		if pair, err := authority.NewPair(cert, key); err == nil {
			return authority.Load(pair, now)
		}
	}
	return nil, fmt.Errorf("it belongs to no certificate in %s", caCert)
}

// serving fills in the serving certificate: the one there is, and another if that
// must be replaced.
func (w wanted) serving(v *verdict, data map[string][]byte, ca *authority.Authority, now time.Time) error {
	current, hosts, reason := w.look(data, v.trusted, ca.Cert, now)
	v.current = current
	if reason == "" {
		v.next = current
		return nil
	}
	next, err := ca.Serving(hosts, now)
	if err != nil {
		return err
	}
	key, err := next.EncodeKey()
	if err != nil {
		return err
	}
	v.next = next.TLS(ca.Cert)
	v.change[servingKey] = key
	v.change[servingCert] = authority.EncodeCerts(next.Cert, ca.Cert)
	v.reasons = append(v.reasons, "new serving certificate: "+reason)
	return nil
}

// look returns the serving certificate, and with a reason the hosts of the one
// that should take its place.
func (w wanted) look(data map[string][]byte, trusted []*x509.Certificate, ca *x509.Certificate, now time.Time) (current *tls.Certificate, hosts []string, reason string) {
	pair, issuer, err := readServing(data, trusted)
	if err != nil {
		return nil, w.hosts, err.Error()
	}
	if now.Before(pair.Cert.NotAfter) {
		current = pair.TLS(issuer)
	}
	hosts, reason = w.replace(pair.Cert, issuer, ca, now)
	return current, hosts, reason
}

// readServing returns the serving certificate and who signed it.
func readServing(data map[string][]byte, cas []*x509.Certificate) (authority.Pair, *x509.Certificate, error) {
	if len(data[servingCert]) == 0 || len(data[servingKey]) == 0 {
		return authority.Pair{}, nil, errors.New("there was none")
	}
	certs, err := authority.ParseCerts(data[servingCert], maxCerts)
	if err != nil {
		return authority.Pair{}, nil, fmt.Errorf("%s could not be used: %w", servingCert, err)
	}
	key, _, err := authority.ParseKey(data[servingKey])
	if err != nil {
		return authority.Pair{}, nil, fmt.Errorf("%s could not be used: %w", servingKey, err)
	}
	pair, err := authority.NewPair(certs[0], key)
	if err != nil {
		return authority.Pair{}, nil, fmt.Errorf("%s could not be used: %w", servingCert, err)
	}
	for _, ca := range cas {
		if pair.Cert.CheckSignatureFrom(ca) == nil {
			return pair, ca, nil
		}
	}
	return authority.Pair{}, nil, fmt.Errorf("%s was signed by nobody in %s", servingCert, caCert)
}

// replace tells why the serving certificate should be replaced, and for which
// hosts then; no reason means that it is good.
//
// Names that are wanted no more stay until the certificate is due: while a new
// configuration is rolled out, replicas want different names, and each must find
// its own without taking away those of the others.
func (w wanted) replace(cert, issuer, ca *x509.Certificate, now time.Time) (hosts []string, reason string) {
	have := authority.HostsOf(cert)
	missing := func(h string) bool { return !slices.Contains(have, h) }
	switch {
	case slices.ContainsFunc(w.hosts, missing):
		return w.withNames(have), "names are missing in it"
	case now.Before(cert.NotBefore):
		return w.hosts, "its life has not begun, so it was made while a clock was ahead"
	case issuer.Equal(ca) && !cert.NotAfter.Before(ca.NotAfter):
		return nil, "" // it cannot be made to last longer
	case !now.Before(authority.RenewAt(cert)):
		return w.hosts, "two thirds of its life were over"
	case !issuer.Equal(ca) && !now.Before(authority.Made(ca).Add(w.overlap)):
		return w.withNames(have), "the authority is another"
	}
	return nil, ""
}

// withNames adds the names of a certificate to the wanted ones as long as there
// is room.
func (w wanted) withNames(have []string) []string {
	all := slices.Concat(w.hosts, have)
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) > authority.MaxHosts {
		return w.hosts
	}
	return all
}
