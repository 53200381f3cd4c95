package kubectl

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// status is metav1.Status as far as clients look at it.
type status struct {
	Kind       string   `json:"kind"`
	APIVersion string   `json:"apiVersion"`
	Metadata   struct{} `json:"metadata"`
	Status     string   `json:"status"`
	Message    string   `json:"message,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	Code       int      `json:"code"`
}

// WriteStatus refuses a request the way kube-apiserver does: with a metav1.Status
// as JSON, whose message is what kubectl shows to its user. reason is one of
// metav1.StatusReason, as "NotFound", and code the HTTP status that goes with it.
func WriteStatus(w http.ResponseWriter, r *http.Request, code int, reason, message string) {
	body, err := json.Marshal(status{
		Kind: "Status", APIVersion: "v1", Status: "Failure",
		Message: message, Reason: reason, Code: code,
	})
	if err != nil { // strings and a number: it cannot fail
		http.Error(w, message, code)
		return
	}
	body = append(body, '\n')
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-cache, private")
	h.Set("X-Content-Type-Options", "nosniff")
	if len(r.Header["Upgrade"]) > 0 && r.ProtoMajor == 1 {
		// The client may have sent bytes of the protocol it hoped for. They must
		// not be read as a request.
		h.Set("Connection", "close")
	}
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may be gone, which is nobody's fault
	}
}
