package relay

// crowd counts what goes on, for whoever waits until nothing does. Its owner locks
// it. The zero value is ready.
type crowd struct {
	n    int
	none []chan struct{} // closed when n falls to 0
}

func (c *crowd) enter() { c.n++ }

func (c *crowd) leave() {
	if c.n--; c.n > 0 {
		return
	}
	for _, done := range c.none {
		close(done)
	}
	c.none = nil
}

// gone returns a channel that is closed once nothing goes on.
func (c *crowd) gone() <-chan struct{} {
	done := make(chan struct{})
	if c.n == 0 {
		close(done)
	} else {
		c.none = append(c.none, done)
	}
	return done
}
