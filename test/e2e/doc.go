// Package e2e installs Culvert on a real cluster as its README says, and goes
// through it with real programs: two versions of kubectl and culvert. What each of
// them can do, on the stock path and through Culvert, ends up in
// docs/compatibility.md.
//
// It needs root, Linux and what "make cluster-binaries" builds.
package e2e
