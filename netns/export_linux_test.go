package netns

// SetHome replaces the way home of visiting threads.
func (d *Dialer) SetHome(f func(fd int) error) { d.home = f }

// InFlight counts the dials that have their turn.
func (d *Dialer) InFlight() int { return len(d.turns()) }
