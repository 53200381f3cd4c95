// Package traffic makes connections of which both ends are in the test's hands:
// one dials where a user would, the other listens where the pod's program would.
// Each end notes what it did and what it saw, and when a connection is over the
// notes are compared: every byte with the one that was sent in its place, every
// end with what the other side really did. A connection may fail while a fault is
// in force; it may never end wrongly, and never stay.
package traffic
