package tunnel

// Hold keeps what is written back until Flush, which then writes it at once. Who was
// handed the TLS connection (HandOver) finds this beneath it, by NetConn: a write of
// several records is then one system call.
func (c *recordConn) Hold() { c.hold() }

// Flush writes what Hold kept back. Its error is that of writing.
func (c *recordConn) Flush() error { return c.flush() }
