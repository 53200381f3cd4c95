package tunnel

// Gone returns a channel that is closed when the stream was reset by either
// end, or closed at this one. It is for who has read the peer's end and waits
// on, since then no read would tell. The end of the whole session is
// Session.Done.
func (st *Stream) Gone() <-chan struct{} { return st.gone }
