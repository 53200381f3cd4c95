package kubectl

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.bench"); f != nil && f.Value.String() != "" {
		m.Run() // upstream's parts, which the benchmarks compare with, leak
		return
	}
	goleak.VerifyTestMain(m)
}
