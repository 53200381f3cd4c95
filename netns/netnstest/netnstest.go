// Package netnstest gives a test a fresh network namespace with its own loopback, and runs things
// inside it. It needs Linux and root; without root the test is skipped.
package netnstest
