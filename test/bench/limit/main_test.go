package main

import (
	"io"
	"net"
	"testing"
)

// pair are the two ends of a TCP connection.
func pair(t *testing.T) (near, remote *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dialled.Close()
		accepted.Close()
	})
	return accepted.(*net.TCPConn), dialled.(*net.TCPConn)
}

// TestJoinEndsEachWayByItself: an answer comes after the question has ended.
func TestJoinEndsEachWayByItself(t *testing.T) {
	a, client := pair(t)
	b, server := pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		join(a, b)
	}()
	if _, err := io.WriteString(client, "question"); err != nil {
		t.Fatal(err)
	}
	client.CloseWrite()
	asked, err := io.ReadAll(server)
	if err != nil || string(asked) != "question" {
		t.Errorf("%q, %v", asked, err)
	}
	if _, err := io.WriteString(server, "answer"); err != nil {
		t.Fatal(err)
	}
	server.CloseWrite()
	answered, err := io.ReadAll(client)
	if err != nil || string(answered) != "answer" {
		t.Errorf("%q, %v", answered, err)
	}
	<-done
}

func TestBadArguments(t *testing.T) {
	for _, args := range [][]string{nil, {"nothing"}, {"client", "-ports", "x"}, {"node", "-netns", "/does/not/exist"}, {"relay", "-nonsense"}} {
		if run(args) == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}
