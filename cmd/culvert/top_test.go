package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/client"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

func TestMeter(t *testing.T) {
	var m meter
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return began.Add(time.Duration(s * float64(time.Second))) }
	item := func(id string, up, down uint64) streamItem {
		return streamItem{ID: id, BytesUp: up, BytesDown: down, Started: &began}
	}
	for i, look := range []struct {
		at    float64
		items []streamItem
		want  [][2]float64
	}{
		{10, []streamItem{item("a", 100, 0)}, [][2]float64{{10, 0}}}, // since it began
		{12, []streamItem{item("a", 300, 50)}, [][2]float64{{100, 25}}},
		{12, []streamItem{item("a", 300, 50)}, [][2]float64{{0, 0}}},                            // no time has passed
		{14, []streamItem{item("a", 200, 50), item("b", 28, 14)}, [][2]float64{{0, 0}, {2, 1}}}, // less than before: another one of that id
		{16, nil, nil},
		{18, []streamItem{item("b", 36, 18)}, [][2]float64{{2, 1}}},       // forgotten meanwhile
		{18.5, []streamItem{{ID: "c", BytesUp: 7}}, [][2]float64{{7, 0}}}, // it does not say when
	} {
		rows := m.rate(at(look.at), look.items)
		if len(rows) != len(look.want) {
			t.Fatalf("look %d: %d rows", i, len(rows))
		}
		for k, r := range rows {
			if r.Up != look.want[k][0] || r.Down != look.want[k][1] {
				t.Errorf("look %d, %s: %v up, %v down, want %v", i, r.ID, r.Up, r.Down, look.want[k])
			}
		}
	}
}

func TestOrders(t *testing.T) {
	old, young := time.Unix(1, 0), time.Unix(2, 0)
	a := &rated{streamItem: streamItem{ID: "a", User: "ann", Pod: "z", BytesUp: 9, Started: &young}, Up: 1, Down: 5}
	b := &rated{streamItem: streamItem{ID: "b", User: "bob", Pod: "y", BytesUp: 1, Started: &old}, Up: 2, Down: 1}
	for order, first := range map[string]string{"rate": "a", "up": "b", "down": "a", "bytes": "a", "age": "b", "user": "a", "pod": "b"} {
		rows := []*rated{a, b}
		slices.SortStableFunc(rows, orderOf(order))
		if rows[0].ID != first {
			t.Errorf("by %s %s is first", order, rows[0].ID)
		}
	}
	if len(orders()) != 7 {
		t.Error("an order is not tested")
	}
}

type buffer struct{ bytes.Buffer }

func (*buffer) Close() error { return nil }

func overviewOf(relays ...client.RelayStreams) *client.Overview {
	return &client.Overview{Relays: relays}
}

// What is shown says what is not; no name from a relay moves the cursor; and no more
// is shown than was asked for.
func TestTopShows(t *testing.T) {
	out := &buffer{}
	show := &top{streamsFilter: streamsFilter{app: &app{out: out}}, limit: 2}
	o := overviewOf(client.RelayStreams{ID: "r1", Streams: []*controlv1.StreamInfo{
		{Id: "0123456789abcdef", User: "ann\x1b[2J", Namespace: "shop\n", Pod: "web\t", Port: 80, Node: "n\u202e"},
		{Id: "1", BytesUp: 2048}, {Id: "2"},
	}})
	o.Missing = 1
	var m meter
	s := screenOn(out, true)
	rows := m.rate(time.Now(), itemsOf(o))
	slices.SortFunc(rows, func(a, b *rated) int { return strings.Compare(a.ID, b.ID) })
	for range 2 {
		if err := show.show(s, o, rows); err != nil {
			t.Fatal(err)
		}
	}
	s.leave()
	got := out.String()
	if strings.ContainsAny(got, "\x1b\t\u202e") || !strings.Contains(got, "3 your own streams at 1 of 2 relays, 2.0KiB/s up") ||
		!strings.Contains(got, "0123456789ab ") || strings.Count(got, "\n") != 2*4+1 {
		t.Errorf("%q", got)
	}
	out.Reset()
	show.output = "json"
	if err := show.show(s, o, rows); err != nil {
		t.Fatal(err)
	}
	var page struct {
		Missing int
		Relays  []struct{ ID string }
		Items   []struct {
			ID          string
			UpPerSecond float64
		}
	}
	if err := json.Unmarshal(out.Bytes(), &page); err != nil || page.Missing != 1 || len(page.Items) != 2 || page.Items[1].UpPerSecond != 2048 || page.Relays[0].ID != "r1" {
		t.Errorf("%s, %v", out, err)
	}
}

func TestRemarks(t *testing.T) {
	var said bytes.Buffer
	f := &streamsFilter{app: &app{voice: &voice{w: &said}}}
	f.remark(overviewOf(client.RelayStreams{All: true}))
	if said.Len() != 0 {
		t.Errorf("says %q of what is whole", &said)
	}
	o := overviewOf(client.RelayStreams{All: true, LeftOut: 2}, client.RelayStreams{LeftOut: 3})
	o.Missing = 1
	f.remark(o)
	for _, want := range []string{"2 of 3 relays could be asked", "5 streams more are not shown", "only your own streams are shown"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("no %q in %q", want, &said)
		}
	}
}
