package agent

import (
	"context"
	"sync"
	"time"
)

const (
	// toldFirst is the least time over which nodes spread their first dial of an
	// address that they were told of, all at the same moment.
	toldFirst = time.Second
	// toldMax is the longest pause between attempts at one: it may not be one that
	// this node can reach.
	toldMax = 2 * time.Minute
)

// followTold keeps a tunnel to every address that relays tell of each other, beside
// those that the agent knows by itself. It returns when they have ended.
func (a *Agent) followTold(ctx, hard context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	keepers := make(map[string]*keeper)
	for {
		hints, told, changed := a.fleet.hints()
		if told {
			a.takeHints(ctx, hard, hints, keepers, &running)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// takeHints leaves the addresses that are told no more, and has a keeper run for
// each new one.
func (a *Agent) takeHints(ctx, hard context.Context, hints map[string]hint, keepers map[string]*keeper, running *sync.WaitGroup) {
	for addr, k := range keepers {
		if _, wanted := hints[addr]; !wanted || !k.want() {
			k.leave()
			delete(keepers, addr)
		}
	}
	for addr, h := range hints {
		if keepers[addr] != nil {
			continue
		}
		if a.spare.Add(-1) < 0 {
			a.spare.Add(1)
			return
		}
		k := a.newKeeper(h.relay, addr)
		k.told = true
		keepers[addr] = k
		running.Go(func() {
			defer a.spare.Add(1)
			if attempt, wanted := k.next(ctx); wanted {
				k.turn(attempt, max(toldFirst, h.pace))
				k.run(ctx, hard)
			}
		})
	}
}
