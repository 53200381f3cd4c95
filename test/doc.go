// Package test holds what no single room can: tests that cross processes, and
// tests that hold the shape of the source tree.
package test
