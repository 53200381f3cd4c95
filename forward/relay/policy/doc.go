// Package policy narrows what callers may reach beyond what their rights allow:
// rules in a file, the first that matches decides, and what a pod says of its own
// ports. It can only refuse. Whoever may not forward to a pod without a policy may
// not with one either: who the caller is and what his rights are is asked before.
//
// A file is a YAML document:
//
//	dryRun: false               # true: every decision is noted, none is enforced
//	rules:
//	- name: databases
//	  users: [ann, "system:serviceaccount:ci:*"]
//	  groups: [dev]             # one of the users or one of the groups must match
//	  namespaces: ["team-*"]
//	  pods: ["db-*"]
//	  labels: {app: postgres}   # all of them must match
//	  ports: [5432, 8000-8100]
//	  action: deny              # or allow
//	  reason: ask the database team
//	  dryRun: true              # this rule is noted and not enforced
//
// What a rule does not name matches everything. "*" in a name stands for any
// characters, also none.
package policy
