// Package lab builds small networks on one machine for tests that cross
// processes: hosts that are network namespaces joined by a bridge, pods that are
// namespaces behind a host, packet captures, socket tables and faults in the path.
//
// Nothing is simulated above the link: processes are real, their packets cross
// real veth pairs, and captures are made by tcpdump. Everything the lab makes is
// removed by [Network.Close], and by a reaper process should the test die first.
// It needs root and Linux; without root a test is skipped.
package lab
