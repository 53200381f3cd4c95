// Package faults breaks what Culvert runs on, one thing after the other, while
// connections are made and used all the time: links, processes, disks, clocks,
// certificates, descriptors. Processes, namespaces and faults are real. What a
// fault did is measured and written to docs/reliability.md; what it may never do
// fails the test: a wrong byte, an end that nobody made, a connection that stays,
// one that is hurt although the fault was elsewhere, and anything left behind.
package faults
