// Package audit writes down who reached what through a relay: JSON, one object a
// line, in a file of its own or on a pipe. docs/audit.md is the schema.
//
// Nothing that carries bytes ever waits for it. Records go through a bounded queue
// to one goroutine; what does not fit is dropped and counted, and a relay that must
// not go on without its log asks Admit before each stream.
package audit
