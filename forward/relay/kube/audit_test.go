package kube

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/culvert-k8s/culvert/forward/relay/audit"
)

// Requests that are refused at the front leave a record with all that is known of
// who asked, and nothing that he showed.
func TestAuditOfTheFront(t *testing.T) {
	var out bytes.Buffer
	log, err := audit.Open(audit.Config{Out: &out})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Config{Audit: log})
	defer b.kube.Close()
	b.ask(t, http.MethodPost, webPath) // let in: the relay's to write down
	b.ask(t, http.MethodPost, webPath, "Authorization:")
	b.ask(t, http.MethodGet, webPath, "Authorization:", "Authorization: Bearer nobodys-token")
	b.ask(t, http.MethodPost, webPath, "Connection: Authorization")
	b.api.rights = func(string, *authorizationv1.ResourceAttributes) bool { return false }
	b.ask(t, http.MethodPost, "/api/v1/namespaces/ns/pods/web2/portforward")
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		var m struct{ Event, Door, User, Namespace, Pod, Code, From string }
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.Join([]string{m.Event, m.Door, m.User, m.Namespace, m.Pod, m.Code}, " "))
		if m.From == "" {
			t.Errorf("from nowhere: %s", line)
		}
	}
	want := []string{
		"access-refused http  ns web unauthenticated",
		"access-refused http  ns web unauthenticated",
		"access-refused http    malformed",
		"access-refused http ann ns web2 forbidden",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if out.Len() == 0 || strings.Contains(out.String(), "nobodys-token") || strings.Contains(out.String(), "Bearer tok") {
		t.Errorf("a token in %s", &out)
	}
}
