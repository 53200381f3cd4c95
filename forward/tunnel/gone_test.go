package tunnel

import (
	"errors"
	"io"
	"testing"
)

func TestGoneTellsOfAReset(t *testing.T) {
	client, server := plainSessions(t, Config{})
	a, b := streams(t, client, server)
	if _, err := a.WriteLast([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if p, err := io.ReadAll(b); string(p) != "x" || err != nil {
		t.Fatalf("%q, %v", p, err)
	}
	select {
	case <-b.Gone():
		t.Fatal("gone, and yet it only finished")
	default:
	}
	_ = a.Reset()
	await(t, "the peer's reset", b.Gone())
	c, _ := streams(t, client, server)
	_ = c.Close()
	await(t, "the own close", c.Gone())
}

// What had come in over a session that the peer ended is given out, also after
// this end has closed the session in turn.
func TestLeftoverSurvivesTheCloseThatFollowsTheLoss(t *testing.T) {
	client, server := plainSessions(t, Config{})
	a, b := streams(t, client, server)
	if _, err := a.WriteLast([]byte("all of it")); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	await(t, "the loss", server.Done())
	_ = server.Close()
	// Whether it was all, the frames of the layer above say.
	if p, err := io.ReadAll(b); string(p) != "all of it" || !errors.Is(err, ErrLost) {
		t.Errorf("%q, %v", p, err)
	}
}
