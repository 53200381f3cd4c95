package tunnel

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// How long writers wait for credit is counted, and how many do now.
func TestWaitsForCreditAreCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mem := new(Memory)
		client, server := pipeSessions(t, Config{Memory: mem}, nil)
		a, b := streams(t, client, server)
		if u := mem.Usage(); u.Waiting != 0 || u.Waited != 0 || u.GrownLimit == 0 {
			t.Errorf("before anybody waits: %+v", u)
		}
		wrote := make(chan error, 1)
		go func() { wrote <- source(a, 2*lanWindow) }()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if u := mem.Usage(); u.Waiting != 1 || u.Waited > time.Second {
			t.Errorf("while one waits: %+v", u)
		}
		buf := make([]byte, 64<<10)
		for got := 0; got < 2*lanWindow; {
			n, err := b.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		if u := mem.Usage(); u.Waiting != 0 || u.Waited < 3*time.Second || u.Waited > 4*time.Second {
			t.Errorf("afterwards: %+v", u)
		}
		// One that is freed by something else is not forgotten. The window may have grown.
		go func() { wrote <- source(a, 64*lanWindow) }()
		synctest.Wait()
		_ = a.SetWriteDeadline(time.Now().Add(time.Second))
		if err := <-wrote; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("written without credit: %v", err)
		}
		if u := mem.Usage(); u.Waiting != 0 || u.Waited < 4*time.Second {
			t.Errorf("after a deadline: %+v", u)
		}
	})
}
