package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is a writer that does what it is told.
type sink struct {
	mu     sync.Mutex
	text   bytes.Buffer
	room   int // bytes until it fails; less than 0: endless
	gate   chan struct{}
	writes int
}

func (s *sink) Write(p []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	n := len(p)
	if s.room >= 0 && n > s.room {
		n = s.room
	}
	s.text.Write(p[:n])
	if s.room >= 0 {
		s.room -= n
	}
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func (s *sink) grow(room int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room = room
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// lines parses what was written: every line must be one object.
func lines(t *testing.T, text string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for l := range strings.Lines(text) {
		var m map[string]any
		if err := json.Unmarshal([]byte(l), &m); err != nil || !strings.HasSuffix(l, "\n") {
			t.Fatalf("%q: %v", l, err)
		}
		out = append(out, m)
	}
	return out
}

func open(t *testing.T, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func shut(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func metric(l *Log, name string) string {
	var b bytes.Buffer
	l.WriteMetrics(&b)
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(b.String())
	if m == nil {
		return ""
	}
	return m[1]
}

// The fields of each event are what docs/audit.md promises.
func TestSchema(t *testing.T) {
	began := time.Date(2026, 5, 4, 3, 2, 1, 7000, time.UTC)
	for want, r := range map[string]Record{
		`{"v":1,"time":"2026-05-04T03:02:02.500007Z","event":"stream-end","relay":"r1","stream":"00ff","trace":"4bf9","door":"culvert",` +
			`"user":"jane","groups":["dev","ops"],"from":"192.0.2.1:99","namespace":"shop","pod":"web-0","uid":"u-1","port":8080,"node":"n1",` +
			`"agent":"192.0.2.2:77","policy":"allow: shop","code":"ok","started":"2026-05-04T03:02:01.000007Z","seconds":1.5,"bytes_up":0,"bytes_down":12}`: {
			Time: began.Add(1500 * time.Millisecond), Event: StreamEnd, Stream: "00ff", Trace: "4bf9", Door: "culvert",
			User: "jane", Groups: []string{"dev", "ops"}, From: "192.0.2.1:99", Namespace: "shop", Pod: "web-0", UID: "u-1", Port: 8080,
			Node: "n1", Agent: "192.0.2.2:77", Policy: "allow: shop", Code: "ok", Started: began, Down: 12,
		},
		`{"v":1,"time":"2026-05-04T03:02:01.000007Z","event":"access-refused","relay":"r1","role":"node","from":"192.0.2.1:99",` +
			`"code":"unauthenticated","reason":"<no>"}`: {
			Time: began, Event: AccessRefused, Role: "node", From: "192.0.2.1:99", Code: "unauthenticated", Reason: "<no>",
		},
	} {
		if got := string(appendLine(nil, "r1", &entry{Record: r})); got != want+"\n" {
			t.Errorf("%s\nwant\n%s", got, want)
		}
	}
}

// checkLine wants one line of JSON that a terminal may be shown, and not too long.
func checkLine(t *testing.T, b []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	if bytes.Count(b, []byte("\n")) != 1 || b[len(b)-1] != '\n' || len(b) > 256<<10 {
		t.Fatalf("%d bytes that are no line", len(b))
	}
	for i := 0; i < len(b)-1; {
		r, n := utf8.DecodeRune(b[i:])
		if !unicode.IsPrint(r) {
			t.Fatalf("%U in %q", r, b)
		}
		i += n
	}
	return m
}

func TestHostileStrings(t *testing.T) {
	for name, s := range map[string]string{
		"line breaks":  "a\nb\r\n{\"v\":1}\u2028\u2029\u0085",
		"quotes":       `"},"event":"stream-end","x":{"`,
		"terminal":     "\x1b[2J\x07\u009b31m",
		"direction":    "\u202eabc\u2066",
		"beyond 16bit": "\U000e0041\U0001f469",
		"del and nul":  "\x7f\x00",
	} {
		m := checkLine(t, appendLine(nil, s, &entry{Record: Record{
			Event: AccessRefused, User: s, Groups: []string{s}, From: s, Namespace: s, Pod: s, UID: s, Node: s, Agent: s,
			Policy: s, Code: s, Reason: s, StoppedBy: s, Stream: s, Trace: s, Door: s, Role: s,
		}}))
		if m["user"] != s || m["reason"] != s || m["event"] != "access-refused" || m["groups"].([]any)[0] != s {
			t.Errorf("%s came back as %q", name, m)
		}
	}
}

func TestLongStringsAreCut(t *testing.T) {
	long := strings.Repeat("é", 5000)
	m := checkLine(t, appendLine(nil, "r", &entry{Record: Record{
		Event: StreamRefused, User: "x" + long, Reason: long, Groups: strings.Split(strings.Repeat("g,", 99)+long, ","),
	}}))
	if len(m["user"].(string)) > maxString || len(m["reason"].(string)) > maxReason || !utf8.ValidString(m["user"].(string)) {
		t.Errorf("%d, %d bytes", len(m["user"].(string)), len(m["reason"].(string)))
	}
	if len(m["groups"].([]any)) != maxGroups || m["more_groups"] != float64(100-maxGroups) {
		t.Errorf("%v groups and %v more", len(m["groups"].([]any)), m["more_groups"])
	}
}

func FuzzLine(f *testing.F) {
	f.Add("jane", "\x1b[31m\n", []byte{0xff, 0xfe}, uint16(80))
	f.Fuzz(func(t *testing.T, a, b string, c []byte, port uint16) {
		checkLine(t, appendLine(nil, a, &entry{Record: Record{
			Event: StreamEnd, User: b, Groups: []string{a, string(c)}, Pod: string(c), Reason: a + b, Port: port, From: b,
		}}))
	})
}

func TestConfigIsChecked(t *testing.T) {
	dir := t.TempDir()
	for _, cfg := range []Config{
		{}, {Path: "x", Out: io.Discard}, {Path: dir}, {Path: os.DevNull}, {Path: filepath.Join(dir, "none", "log")},
	} {
		if l, err := Open(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
			shut(t, l)
		}
	}
}

func TestNilKeepsNothing(t *testing.T) {
	var l *Log
	l.Identify("r")
	l.Write(Record{})
	l.Reopen()
	l.WriteMetrics(io.Discard)
	if l.Admit() != nil || l.Close() != nil {
		t.Error("it is no log at all")
	}
}

func TestFileIsForItsOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	for range 2 { // the second one adds to it
		l := open(t, Config{Path: path})
		l.Identify("r9")
		l.Write(Record{Event: StreamOpen, User: "jane"})
		shut(t, l)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := lines(t, string(text)); len(got) != 2 || got[1]["user"] != "jane" || got[1]["relay"] != "r9" {
		t.Errorf("%s", text)
	}
	if at, err := os.Stat(path); err != nil || at.Mode() != 0o600 {
		t.Errorf("%v, %v", at.Mode(), err)
	}
}

// await waits for something that another goroutine does soon.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, Config{Path: path})
	has := func(file, user string) func() bool {
		return func() bool {
			text, _ := os.ReadFile(file)
			return strings.Contains(string(text), `"user":"`+user+`"`)
		}
	}
	l.Write(Record{Event: StreamOpen, User: "first"})
	await(t, "nothing is written", has(path, "first"))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	await(t, "no new file when asked for", func() bool { _, err := os.Stat(path); return err == nil })
	l.Write(Record{Event: StreamOpen, User: "second"})
	await(t, "the new file is not written to", has(path, "second"))

	// Nobody says that this one is gone: that is seen.
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	await(t, "no new file", func() bool { _, err := os.Stat(path); return err == nil })
	l.Write(Record{Event: StreamOpen, User: "third"})
	await(t, "the newest file is not written to", has(path, "third"))
	shut(t, l)
	for file, want := range map[string]string{path + ".1": "first", path + ".2": "second", path: "third"} {
		text, _ := os.ReadFile(file)
		if got := lines(t, string(text)); len(got) != 1 || got[0]["user"] != want {
			t.Errorf("%s holds %s", file, text)
		}
	}
}

// A directory that is gone for a while costs nothing: lines wait.
func TestDirectoryIsAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	path := filepath.Join(dir, "audit.log")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := open(t, Config{Path: path, Required: true})
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	await(t, "nothing is wrong without a directory", func() bool { return l.Admit() != nil })
	l.Write(Record{Event: StreamOpen, User: "jane"})
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	await(t, "still wrong", func() bool { return l.Admit() == nil })
	shut(t, l)
	text, err := os.ReadFile(path)
	if got := lines(t, string(text)); err != nil || len(got) != 1 || got[0]["user"] != "jane" {
		t.Errorf("%s, %v", text, err)
	}
}

// A disk that is full loses nothing until the queue is full too, cuts no line in
// two for good, and says so once.
func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &sink{room: 50}
		var said []error
		l := open(t, Config{Out: out, Queue: 4, Required: true, Report: func(err error) { said = append(said, err) }})
		for i := range 7 {
			l.Write(Record{Event: StreamOpen, User: strings.Repeat("x", i+1)})
			synctest.Wait()
		}
		// One has been written in part, four wait, two are lost.
		if err := l.Admit(); err == nil || metric(l, `culvert_relay_audit_dropped_total{reason="queue-full"}`) != "2" {
			t.Errorf("admits: %v, lost: %s", err, metric(l, `culvert_relay_audit_dropped_total{reason="queue-full"}`))
		}
		time.Sleep(10 * time.Second)
		if len(said) != 1 || !errors.Is(said[0], syscall.ENOSPC) || metric(l, "culvert_relay_audit_failing") != "1" {
			t.Errorf("said %v", said)
		}
		out.grow(-1)
		time.Sleep(2 * time.Second)
		if err := l.Admit(); err != nil || len(said) != 2 || said[1] != nil {
			t.Errorf("after that: %v, said %v", err, said)
		}
		shut(t, l)
		if got := lines(t, out.String()); len(got) != 5 || got[4]["user"] != "xxxxx" {
			t.Errorf("%s", out)
		}
		if metric(l, "culvert_relay_audit_records_total") != "5" {
			t.Error(metric(l, "culvert_relay_audit_records_total"))
		}
	})
}

// A log that takes nothing holds up nobody who writes, and in the end not Close.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &sink{room: -1, gate: make(chan struct{})}
		l := open(t, Config{Out: out, Queue: 8, Required: true})
		for range 20 {
			l.Write(Record{Event: StreamEnd})
			synctest.Wait()
		}
		if err := l.Admit(); !errors.Is(err, errFull) {
			t.Errorf("with a full queue: %v", err)
		}
		if n := metric(l, `culvert_relay_audit_dropped_total{reason="queue-full"}`); n != "11" {
			t.Errorf("%s are dropped, not 11", n)
		}
		began := time.Now()
		if err := l.Close(); err == nil || time.Since(began) != partingTime {
			t.Errorf("closed after %v: %v", time.Since(began), err)
		}
		close(out.gate)
		<-l.done
	})
}

// A write that takes long is seen before the queue is full.
func TestSlowWriteIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &sink{room: -1, gate: make(chan struct{})}
		l, lax := open(t, Config{Out: out, Required: true}), open(t, Config{Out: out})
		for _, log := range []*Log{l, lax} {
			log.Write(Record{Event: StreamOpen})
		}
		time.Sleep(stalledAfter)
		if err := l.Admit(); err != nil {
			t.Errorf("too soon: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if l.Admit() == nil {
			t.Error("a stall goes unnoticed")
		}
		if err := lax.Admit(); err != nil {
			t.Errorf("not required: %v", err)
		}
		close(out.gate)
		synctest.Wait()
		if err := l.Admit(); err != nil {
			t.Errorf("after the stall: %v", err)
		}
		shut(t, l)
		shut(t, lax)
	})
}

// Refusals come as fast as somebody likes: the next line says how many are missing.
// What was let in is never left out for that.
func TestFloodOfRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &sink{room: -1}
		l := open(t, Config{Out: out})
		for range floodBurst + 5 {
			l.Write(Record{Event: AccessRefused})
			l.Write(Record{Event: StreamEnd})
			synctest.Wait()
		}
		l.Write(Record{Event: StreamRefused}) // has a bound of its own
		time.Sleep(time.Second)
		l.Write(Record{Event: AccessRefused, User: "late"})
		shut(t, l)
		got := lines(t, out.String())
		if len(got) != 2*floodBurst+5+2 {
			t.Errorf("%d lines", len(got))
		}
		if last := got[len(got)-1]; last["user"] != "late" || last["left_out"] != 5.0 {
			t.Errorf("last is %v", last)
		}
		if n := metric(l, `culvert_relay_audit_dropped_total{reason="too-many-access-refused"}`); n != "5" {
			t.Errorf("%s are counted", n)
		}
	})
}

// Many at once: everything is written once, in whole lines.
func TestManyWriters(t *testing.T) {
	out := &sink{room: -1}
	l := open(t, Config{Out: out, Queue: 1 << 14})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				l.Write(Record{Event: StreamEnd, User: strings.Repeat("x", 100)})
			}
		})
	}
	all.Wait()
	await(t, "not all is written", func() bool { return metric(l, "culvert_relay_audit_records_total") == "8000" }) // Close has 5 s
	shut(t, l)
	if got := lines(t, out.String()); len(got) != 8000 || out.writes > 8000 {
		t.Errorf("%d lines in %d writes", len(got), out.writes)
	}
}

func BenchmarkWrite(b *testing.B) {
	l, err := Open(Config{Out: io.Discard})
	if err != nil {
		b.Fatal(err)
	}
	r := Record{Event: StreamEnd, User: "jane", Groups: []string{"dev"}, Namespace: "shop", Pod: "web-0", Code: "ok"}
	b.ReportAllocs()
	for b.Loop() {
		l.Write(r)
	}
	_ = l.Close()
}
