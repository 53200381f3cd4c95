package tunnel

import "github.com/culvert-k8s/culvert/proto/stream"

// ReadPush is ReadLazy that gives small pieces of payload to push; see
// forward.PushReader.
func (c *Conn) ReadPush(borrow func() []byte, release func(), push func([]byte) int) (int, error) {
	c.push = push
	err := c.frame()
	c.push = nil
	if err != nil {
		return 0, err
	}
	n, err := c.payload(borrow())
	if n == 0 {
		release()
	}
	return n, err
}

// givePayload takes whole headers of data frames, and of their payload what push
// takes. It is called by the session's receiver while the reader waits in header.
func (c *Conn) givePayload(p []byte) (taken int) {
	for {
		rest := p[taken:]
		if c.left == 0 {
			if len(rest) < stream.HeaderSize {
				return taken
			}
			typ, n, err := stream.ParseHeader(rest)
			if err != nil || typ != stream.FrameData {
				return taken
			}
			taken += stream.HeaderSize
			c.left = n
			continue
		}
		rest = rest[:min(len(rest), c.left)]
		n := 0
		if len(rest) > 0 {
			n = c.push(rest)
		}
		taken += n
		c.left -= n
		if n == 0 || n < len(rest) {
			return taken
		}
	}
}
