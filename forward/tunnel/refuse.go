package tunnel

import (
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// refusalTime bounds how long a refusal may take to be sent.
const refusalTime = time.Second

// Refuse answers the Open that was read from the stream with an error and ends
// the stream. The peer is told stream.CodeOf and stream.TextOf, within a second
// or not at all.
func (st *Stream) Refuse(err error) {
	_ = st.SetDeadline(time.Now().Add(refusalTime))
	b, aerr := stream.AppendReply(nil, &stream.Reply{Version: stream.Version, Code: stream.CodeOf(err), Text: stream.TextOf(err)})
	if aerr == nil {
		_, _ = st.WriteLast(b)
	}
	_ = st.Close()
}
