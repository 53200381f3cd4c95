package stream

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// PROTOCOL.md is what others build from: the table of codes and the worked
// example in it are held against the code and the vectors.
func TestProtocolPageIsTrue(t *testing.T) {
	b, err := os.ReadFile("../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for c := OK; c <= Stopped; c++ {
		if row := fmt.Sprintf("\n| %d | %s |", c, c); !strings.Contains(page, row) {
			t.Errorf("no row of the table of codes begins with %q", strings.TrimSpace(row))
		}
	}
	for _, fact := range []string{
		ALPNAgent, ALPNClient,
		fmt.Sprintf("%d = **%s**", KindForward, KindForward),
		fmt.Sprintf("%d = **%s**", KindControl, KindControl),
		fmt.Sprintf("%d = **%s**", KindAPI, KindAPI),
		fmt.Sprintf("%d = bearer token", CredentialToken),
		fmt.Sprintf("%d = join token", CredentialJoin),
		fmt.Sprintf("| Hello, token | %d bytes |", MaxToken),
		fmt.Sprintf("| Open, whole | %d bytes;", MaxOpen),
		fmt.Sprintf("| text of Reply and RESET | %d bytes |", MaxText),
		fmt.Sprintf("| payload of a DATA frame | %d bytes |", MaxPayload),
		fmt.Sprintf("| 0x%02x | namespace | %d |", tagNamespace, MaxNamespace),
		fmt.Sprintf("| 0x%02x | pod name | %d |", tagPod, MaxPod),
		fmt.Sprintf("| 0x%02x | pod UID | %d |", tagUID, MaxUID),
		fmt.Sprintf("| 0x%02x | user | %d |", tagUser, MaxUser),
	} {
		if !strings.Contains(page, fact) {
			t.Errorf("the page does not say %q", fact)
		}
	}
	if first := loadVectors(t, "open")[0].Hex; !strings.Contains(strings.ReplaceAll(page, " ", ""), first) {
		t.Errorf("the worked example is not the first vector %s", first)
	}
}
