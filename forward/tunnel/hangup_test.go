package tunnel

import (
	"errors"
	"io"
	"testing"
)

// A peer that has everything and hangs up must not make the one who ends a
// stream at that moment believe that it was lost.
func TestEndMarkMayMeetAFarewell(t *testing.T) {
	client, server := tlsSessions(t, Config{})
	a, b := streams(t, client, server)
	if err := b.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("read %v", err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	<-client.Done()
	if err := client.Err(); !errors.Is(err, ErrHungUp) || !errors.Is(err, ErrLost) {
		t.Fatalf("the session ended with %v", err)
	}
	if n, err := a.WriteLast([]byte("end")); n != 3 || err != nil {
		t.Errorf("the last write: %d, %v", n, err)
	}
	if _, err := a.Write([]byte("more")); !errors.Is(err, ErrLost) {
		t.Errorf("another write: %v", err)
	}
}

func TestEndMarkMeetsAPeerThatBrokeOff(t *testing.T) {
	client, server := tlsSessions(t, Config{})
	a, _ := streams(t, client, server)
	server.car.cut()
	<-client.Done()
	if err := client.Err(); errors.Is(err, ErrHungUp) {
		t.Fatalf("the session ended with %v", err)
	}
	if _, err := a.WriteLast([]byte("end")); !errors.Is(err, ErrLost) {
		t.Errorf("the last write: %v", err)
	}
}
