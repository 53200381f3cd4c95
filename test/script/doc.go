// Package script plays scripts against the real programs: a relay, agents and a
// client on hosts of their own, which are network namespaces of one machine. The
// scripts hold what a person or a program at the edge sees: bytes, how a
// connection ends, texts and exit codes.
//
// A script is one file of testdata. README.md there lists the commands that it
// may use beside those of testscript.
package script
