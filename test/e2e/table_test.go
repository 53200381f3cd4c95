//go:build linux

package e2e

import (
	"fmt"
	"strings"
)

// table is what docs/compatibility.md shows: a row for each behaviour, a column
// for each way.
type table struct {
	title   string
	columns []string
	rows    []row
}

// cell is what was seen of a behaviour on a way.
type cell string

const (
	cellYes    cell = "yes"
	cellNo     cell = "**no**"
	cellVaries cell = "not always"
)

type row struct {
	name  string
	cells []cell // one for each column
	note  string
}

// markdown writes the table, and below it the notes that its rows refer to.
func (t *table) markdown() string {
	var b, notes strings.Builder
	fmt.Fprintf(&b, "## %s\n\n| |", t.title)
	for _, c := range t.columns {
		fmt.Fprintf(&b, " %s |", c)
	}
	b.WriteString("\n|---|" + strings.Repeat(":-:|", len(t.columns)) + "\n")
	count := 0
	for _, r := range t.rows {
		name := r.name
		if r.note != "" {
			count++
			name += fmt.Sprintf(" [%d]", count)
			fmt.Fprintf(&notes, "%d. %s\n", count, r.note)
		}
		fmt.Fprintf(&b, "| %s |", name)
		for _, c := range r.cells {
			fmt.Fprintf(&b, " %s |", c)
		}
		b.WriteString("\n")
	}
	if count > 0 {
		b.WriteString("\n" + notes.String())
	}
	return b.String()
}
