package forward

import (
	"io"
	"net"
)

// Pipe makes a Conn of a reader and a writer, as of standard input and output, and takes both over.
//
// CloseWrite closes w. Reset closes both, with the cause where they offer CloseWithError as io.Pipe
// does. An operating system's pipe or file cannot carry a reset: whoever is at the other end of w sees an
// ordinary end, and the cause is known on this side only.
//
// A blocked Read returns on Reset only if closing r makes its Read return. Pipes and sockets do that;
// a terminal or a file opened in blocking mode does not, and then Join waits until the Read is done.
func Pipe(r io.ReadCloser, w io.WriteCloser) Conn {
	return &pipeConn{r: r, w: w}
}

type pipeConn struct {
	r   io.ReadCloser
	w   io.WriteCloser
	end ending
}

func (c *pipeConn) Read(p []byte) (int, error) {
	if c.end.sawEOF() { // a terminal would start anew
		return 0, io.EOF
	}
	n, err := c.r.Read(p)
	switch {
	case err == io.EOF:
		err = c.end.readEOF()
	case err != nil:
		err = c.end.broke(err)
	}
	return n, err
}

func (c *pipeConn) Write(p []byte) (int, error) {
	if c.end.finished.Load() {
		return 0, c.end.standing(errFinished)
	}
	if len(p) == 0 { // some writers wait for a reader even then
		return 0, nil
	}
	n, err := c.w.Write(p)
	if err != nil {
		err = c.end.broke(err)
	}
	return n, err
}

func (c *pipeConn) CloseWrite() error {
	if c.end.finished.Swap(true) {
		return c.end.standing(nil)
	}
	if err := c.w.Close(); err != nil {
		return c.end.broke(err)
	}
	return nil
}

func (c *pipeConn) Reset(cause error) error {
	cause = ResetBy(cause)
	if !c.end.takeDown(cause) {
		return nil
	}
	errR := abortEnd(c.r, cause)
	// After CloseWrite the writer is closed and a second close would only complain.
	if c.end.finished.Swap(true) {
		return errR
	}
	if err := abortEnd(c.w, cause); err != nil {
		return err
	}
	return errR
}

func (c *pipeConn) Close() error {
	if !c.end.clean() {
		return c.Reset(net.ErrClosed)
	}
	if !c.end.takeDown(net.ErrClosed) {
		return nil
	}
	return c.r.Close()
}

// abortEnd closes one end and tells it why, if it can be told.
func abortEnd(c io.Closer, cause error) error {
	if t, ok := c.(interface{ CloseWithError(error) error }); ok {
		return t.CloseWithError(cause)
	}
	return c.Close()
}
