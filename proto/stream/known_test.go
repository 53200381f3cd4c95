package stream

import (
	"fmt"
	"testing"
)

// A code that has a name is known, and no other: the series of a metric are
// bounded by it.
func TestKnownCodesAreThoseWithAName(t *testing.T) {
	for c := range Code(64) {
		named := c.String() != fmt.Sprintf("code-%d", uint16(c))
		if c.Known() != named {
			t.Errorf("%s: known %v, named %v", c, c.Known(), named)
		}
	}
}
