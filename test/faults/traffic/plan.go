package traffic

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Kind is a way in which programs use a connection.
type Kind string

// The kinds. All but Greeting are what a Load makes by itself.
const (
	Requests    Kind = "requests"     // many small questions and answers, then both finish
	Upload      Kind = "upload"       // the client sends and finishes, then the pod answers
	Download    Kind = "download"     // the pod sends and finishes
	Duplex      Kind = "duplex"       // both send at once
	PodFirst    Kind = "pod first"    // the pod finishes and the client goes on sending
	ClientAbort Kind = "client abort" // the client resets in the middle
	PodAbort    Kind = "pod abort"    // the pod resets in the middle
	Idle        Kind = "idle"         // one question, silence, another question
	Greeting    Kind = "greeting"     // the pod speaks first, the client answers
)

type verb uint8

const (
	send     verb = iota // n bytes
	await                // until n bytes in all have come
	awaitEnd             // until the other direction has ended
	hold                 // do nothing for d, or until the load is quieted
	finish               // close the sending half
	abort                // reset
)

type step struct {
	do verb
	n  int64
	d  time.Duration
}

// plan is what both ends of a connection do.
type plan struct {
	kind      Kind
	near, far []step
}

// mixture is how often a worker picks each kind.
var mixture = []Kind{
	Requests, Requests, Requests, Requests, Upload, Upload, Download, Download, Duplex,
	PodFirst, ClientAbort, PodAbort, Greeting,
}

// newPlan draws a plan of that kind, of at most about limit bytes each way.
func newPlan(kind Kind, rng *rand.Rand, limit int64) plan {
	p := plan{kind: kind}
	size := func() int64 { // most are small, a few are as big as they may be
		bound := []int64{300, 300, 300, 16 << 10, 16 << 10, 256 << 10, limit}[rng.IntN(7)]
		return 1 + rng.Int64N(min(bound, limit))
	}
	question, answer := 1+rng.Int64N(200), 1+rng.Int64N(200)
	ask := func() {
		p.near = append(p.near, step{do: send, n: question})
		p.far = append(p.far, step{do: await, n: question}, step{do: send, n: answer})
		p.near = append(p.near, step{do: await, n: answer})
	}
	switch kind {
	case Requests:
		p.requests(rng, size)
	case Upload:
		p.near = []step{{do: send, n: size()}, {do: finish}, {do: awaitEnd}}
		p.far = []step{{do: awaitEnd}, {do: send, n: answer}, {do: finish}}
	case Download:
		ask()
		p.far = append(p.far, step{do: send, n: size()}, step{do: finish})
		p.near = append(p.near, step{do: awaitEnd}, step{do: finish})
	case Duplex:
		p.near = []step{{do: send, n: size()}, {do: finish}, {do: awaitEnd}}
		p.far = []step{{do: send, n: size()}, {do: finish}, {do: awaitEnd}}
	case PodFirst:
		ask()
		p.far = append(p.far, step{do: finish})
		p.near = append(p.near, step{do: awaitEnd}, step{do: send, n: size()}, step{do: finish})
	case ClientAbort:
		ask()
		p.near = append(p.near, step{do: send, n: size()}, step{do: abort})
		p.far = append(p.far, step{do: send, n: size()}, step{do: awaitEnd})
	case PodAbort:
		ask()
		p.near = append(p.near, step{do: send, n: size()}, step{do: awaitEnd})
		p.far = append(p.far, step{do: send, n: size()}, step{do: abort})
	case Idle:
		ask()
		p.near = append(p.near, step{do: hold, d: time.Duration(rng.Int64N(int64(20 * time.Second)))},
			step{do: send, n: question}, step{do: finish}, step{do: awaitEnd})
		p.far = append(p.far, step{do: await, n: 2 * question}, step{do: send, n: answer}, step{do: finish})
	case Greeting:
		p.far = []step{{do: send, n: answer}, {do: await, n: question}, {do: finish}}
		p.near = []step{{do: await, n: answer}, {do: send, n: question}, {do: finish}, {do: awaitEnd}}
	}
	return p
}

// requests is a conversation, with a little time between the questions of some.
func (p *plan) requests(rng *rand.Rand, size func() int64) {
	var asked, answered int64
	pause := time.Duration(max(0, rng.IntN(6)-2)) * 25 * time.Millisecond
	for range 1 + rng.IntN(20) {
		question, answer := 1+rng.Int64N(500), 1+rng.Int64N(500)
		asked, answered = asked+question, answered+answer
		p.near = append(p.near, step{do: hold, d: pause}, step{do: send, n: question}, step{do: await, n: answered})
		p.far = append(p.far, step{do: await, n: asked}, step{do: send, n: answer})
	}
	p.near = append(p.near, step{do: finish}, step{do: awaitEnd})
	p.far = append(p.far, step{do: awaitEnd}, step{do: send, n: size()}, step{do: finish})
}

// aborts tells whether an end resets the connection on purpose.
func aborts(steps []step) bool {
	return slices.ContainsFunc(steps, func(s step) bool { return s.do == abort })
}
