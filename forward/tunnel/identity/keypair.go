package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// KeyPair is a certificate chain with its key in two PEM files, loaded again
// when they change. A pair that cannot be used, also one caught half replaced,
// leaves the last good pair in service.
type KeyPair struct {
	watched *Watched[*tls.Certificate]
}

// LoadKeyPair loads the pair, which must be good the first time. The two paths
// may name one file that holds both.
func LoadKeyPair(certFile, keyFile string, cfg WatchConfig) (*KeyPair, error) {
	parse := func(files [][]byte) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(files[0], files[1])
		if err != nil {
			return nil, fmt.Errorf("load key pair %s, %s: %w", certFile, keyFile, err)
		}
		return &pair, nil
	}
	w, err := Watch(cfg, parse, certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return &KeyPair{watched: w}, nil
}

// Certificate returns the last good pair, never nil. It must not be changed.
func (k *KeyPair) Certificate() *tls.Certificate {
	pair, _ := k.watched.Get() // the error went to Report; Err has it too
	return pair
}

// GetCertificate has the shape of tls.Config.GetCertificate. It never fails.
func (k *KeyPair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return k.Certificate(), nil
}

// Err says why the files as they are now cannot be used, nil when they can.
func (k *KeyPair) Err() error {
	_, err := k.watched.Get()
	return err
}

// CAs is a PEM file of certificate authorities, loaded again when it changes. A
// file that cannot be used leaves the last good pool in service.
type CAs struct {
	watched *Watched[*x509.CertPool]
}

// LoadCAs loads the file, which must be good the first time: one or more
// authorities and nothing else.
func LoadCAs(file string, cfg WatchConfig) (*CAs, error) {
	parse := func(files [][]byte) (*x509.CertPool, error) {
		certs, err := parseCAs(files[0])
		if err != nil {
			return nil, fmt.Errorf("load authorities %s: %w", file, err)
		}
		pool := x509.NewCertPool()
		for _, c := range certs {
			pool.AddCert(c)
		}
		return pool, nil
	}
	w, err := Watch(cfg, parse, file)
	if err != nil {
		return nil, err
	}
	return &CAs{watched: w}, nil
}

// Pool returns the last good pool, never nil. It must not be changed.
func (c *CAs) Pool() *x509.CertPool {
	pool, _ := c.watched.Get()
	return pool
}

// Err says why the file as it is now cannot be used, nil when it can.
func (c *CAs) Err() error {
	_, err := c.watched.Get()
	return err
}

// PinOfFile returns the pin of the only authority in a PEM file. More than one
// is an error: none of them would stand for the file.
func PinOfFile(file string) (Pin, error) {
	b, err := readFile(file, defaultMaxSize, nil)
	if err != nil {
		return Pin{}, err
	}
	certs, err := parseCAs(b)
	if err != nil {
		return Pin{}, fmt.Errorf("read pin of %s: %w", file, err)
	}
	if len(certs) != 1 {
		return Pin{}, fmt.Errorf("read pin of %s: holds %d authorities, want one", file, len(certs))
	}
	return PinOf(certs[0]), nil
}

// parseCAs is strict where crypto/x509 skips what it does not understand: an
// authority that silently is not in the pool shows only when a peer is refused.
func parseCAs(b []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %q block, want certificates only", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if !isCA(cert) {
			return nil, fmt.Errorf("certificate of %q is not an authority", cert.Subject)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("holds no certificate")
	}
	return certs, nil
}

func isCA(cert *x509.Certificate) bool { return cert.BasicConstraintsValid && cert.IsCA }
