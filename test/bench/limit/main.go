// Limit is the bare path that Culvert is measured against: the same hosts and
// hops, TLS 1.3 on each leg, a copy loop each way, and nothing else. There is no
// multiplexing: each forwarded connection is one TLS connection on each leg.
//
//	limit client -listen 127.0.0.1:0 -to RELAY:PORT -port 8080 ...
//	limit relay  -listen ADDRESS -to NODE:PORT
//	limit node   -listen ADDRESS -netns FILE
//
// A connection begins with two bytes, the port on the pod's localhost, which only
// the node looks at. Each prints "listening ADDRESS", the client also for which
// port. The certificate is made up at each start and not verified: verifying
// costs the same on every path.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/netns"
)

// half is a connection whose directions end one by one.
type half interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// dialer opens the next leg for a connection that came in.
type dialer func(in net.Conn) (half, error)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "limit:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want client, relay or node")
	}
	fl := flag.NewFlagSet("limit "+args[0], flag.ContinueOnError)
	listen := fl.String("listen", "127.0.0.1:0", "`address` to listen on")
	to := fl.String("to", "", "`address` of the next hop")
	file := fl.String("netns", "", "`file` of the pod's network namespace")
	ports := fl.String("ports", "", "`ports` of the pod, with commas; one listener each")
	if err := fl.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "client":
		return client(*listen, *to, strings.Split(*ports, ","))
	case "relay":
		return secure(*listen, func(net.Conn) (half, error) { return dialTLS(*to) })
	case "node":
		h, err := netns.Open(*file)
		if err != nil {
			return err
		}
		defer h.Close()
		var d netns.Dialer
		return secure(*listen, func(in net.Conn) (half, error) {
			var port [2]byte
			if _, err := io.ReadFull(in, port[:]); err != nil {
				return nil, err
			}
			return d.Dial(context.Background(), h, binary.BigEndian.Uint16(port[:]))
		})
	}
	return fmt.Errorf("unknown part %q", args[0])
}

// client listens once for each port, and ends with the first that fails.
func client(listen, to string, ports []string) error {
	ended := make(chan error, len(ports))
	for _, text := range ports {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return err
		}
		ln, err := net.Listen("tcp", listen)
		if err != nil {
			return err
		}
		fmt.Println("listening", ln.Addr(), port)
		head := binary.BigEndian.AppendUint16(nil, uint16(port))
		go func() { // ends with the process
			ended <- serve(ln, func(net.Conn) (half, error) {
				conn, err := dialTLS(to)
				if err != nil {
					return nil, err
				}
				if _, err := conn.Write(head); err != nil {
					_ = conn.Close()
					return nil, err
				}
				return conn, nil
			})
		}()
	}
	return <-ended
}

// secure serves connections with TLS.
func secure(listen string, dial dialer) error {
	cert, err := certificate()
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Println("listening", ln.Addr())
	return serve(tls.NewListener(ln, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}), dial)
}

func dialTLS(to string) (half, error) {
	return tls.Dial("tcp", to, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true})
}

// serve joins every connection to one of the next leg.
func serve(ln net.Listener, dial dialer) error {
	for {
		in, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() { // ends with its peers, or with the process
			defer in.Close()
			out, err := dial(in)
			if err != nil {
				fmt.Fprintln(os.Stderr, "limit:", err)
				return
			}
			defer out.Close()
			join(in.(half), out)
		}()
	}
}

// join copies both ways until both have ended.
func join(a, b half) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		pour(a, b)
	}()
	pour(b, a)
	<-done
}

// pour copies one way. A direction that failed ends both.
func pour(dst, src half) {
	if _, err := io.Copy(dst, src); err != nil {
		_ = dst.Close()
		_ = src.Close()
		return
	}
	_ = dst.CloseWrite()
}

func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
