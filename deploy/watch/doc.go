// Package watch has no code: its tests try the alert rules and the dashboard of the
// chart with Prometheus' own packages, and hold them against what relay and agent
// count and what docs/operations.md says.
package watch
