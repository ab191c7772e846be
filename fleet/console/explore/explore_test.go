package explore_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/fleet/console/explore"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

const root = "farebeat/v1/tampa/"

// house is a real broker with one who publishes as a test city does, one as the fleet does, and an explorer.
type house struct {
	*explore.Explorer
	t           *testing.T
	broker      *broker.Broker
	city, fleet *session.Session
	dials       atomic.Int32
	last        net.Conn // of the explorer
	end         func()
}

func tampa(t testing.TB) topics.Tree {
	t.Helper()
	tree, err := topics.New("tampa")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func newHouse(t *testing.T, o explore.Options) *house {
	t.Helper()
	b, err := broker.New(broker.Options{Tree: tampa(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, broker: b}
	o.Tree = tampa(t)
	o.Session = session.Options{Dial: func(ctx context.Context) (net.Conn, error) {
		h.dials.Add(1)
		c, err := b.Dial(ctx, topics.Identity{Role: topics.RoleViewer, Name: "explorer"})
		h.last = c
		return c, err
	}}
	if h.Explorer, err = explore.New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	run := func(f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	run(h.Explorer.Run)
	client := func(role topics.Role) *session.Session {
		s, err := session.New(session.Options{ClientID: string(role), CleanSession: true, Dial: func(ctx context.Context) (net.Conn, error) {
			return b.Dial(ctx, topics.Identity{Role: role, Name: string(role)})
		}})
		if err != nil {
			t.Fatal(err)
		}
		run(s.Run)
		return s
	}
	h.city, h.fleet = client(topics.RoleSimulator), client(topics.RoleFleet)
	h.end = func() {
		cancel()
		wg.Wait()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute) // virtual: lets paho's timers run out
	}
	time.Sleep(time.Second) // virtual
	return h
}

// put publishes on a topic after the root, as its kind wants it.
func (h *house) put(topic, payload string) {
	h.t.Helper()
	tree := tampa(h.t)
	a, err := tree.Parse(root + topic)
	if err != nil {
		h.t.Fatal(err)
	}
	spec, _ := tree.Spec(a.Kind)
	by := h.fleet
	if slices.Contains(spec.Writers, topics.RoleSimulator) {
		by = h.city
	}
	if err := by.Publish(h.t.Context(), session.Message{Topic: root + topic, QoS: spec.QoS, Retain: spec.Retain, Payload: []byte(payload)}); err != nil {
		h.t.Fatal(err)
	}
	synctest.Wait()
}

func (h *house) level(prefix, find string) explore.Level {
	h.t.Helper()
	l, err := h.Levels(h.t.Context(), prefix, find, "", 0)
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

// warm looks, and waits until the explorer has heard what stands.
func (h *house) warm() {
	h.t.Helper()
	h.level("", "")
	time.Sleep(time.Second)
	if s := h.Status(); !s.Listening || !s.Connected {
		h.t.Fatalf("a second after a look: %+v", s)
	}
}

func names(l explore.Level) []string {
	var out []string
	for _, r := range l.Rows {
		out = append(out, r.Name)
	}
	return out
}

func gateway(vehicle string) string {
	return `{"as_of":"2026-11-22T05:10:00.000Z","vehicle":"` + vehicle + `","status":"ONLINE","session":1795521000}`
}

func heartbeat(seq int) string {
	return fmt.Sprintf(`{"seq":%d,"boot":"b1","at":"2026-11-22T05:10:00.000Z","state":"running"}`, seq)
}

// TestItListensOnlyWhileSomebodyLooks: no connection before the first look, none a while after the last, and what was heard is forgotten.
func TestItListensOnlyWhileSomebodyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, explore.Options{Idle: 30 * time.Second})
		defer h.end()
		h.put("vehicle/1216/gateway", gateway("1216"))
		time.Sleep(time.Hour)
		if n := h.dials.Load(); n != 0 {
			t.Fatalf("%d connections without a look", n)
		}
		if l := h.level("", ""); l.Listening || l.Connected || len(l.Rows) != 0 || !l.Since.IsZero() {
			t.Errorf("from cold: %+v", l)
		}
		began := time.Now()
		time.Sleep(time.Second)
		for range 10 { // looks keep it going
			l := h.level("vehicle", "")
			if !l.Connected || !l.Since.Equal(began) || !cmp.Equal(names(l), []string{"1216"}) {
				t.Fatalf("%+v, want it to listen since %s", l, began)
			}
			time.Sleep(29 * time.Second)
		}
		time.Sleep(2 * time.Second)
		if s := h.Status(); s.Listening || s.Connected || s.Topics != 0 || s.Bytes != 0 || h.dials.Load() != 1 {
			t.Errorf("after the last look: %+v, %d connections", s, h.dials.Load())
		}
		if _, ok := h.Topic(t.Context(), root+"vehicle/1216/gateway"); ok {
			t.Error("what was heard is remembered")
		}
		time.Sleep(time.Second)
		if v, ok := h.Topic(t.Context(), "vehicle/1216/gateway"); !ok || h.dials.Load() != 2 {
			t.Errorf("not heard again: %+v", v)
		}
	})
}

// TestLevels: each level counts what is below it, says when something came and how often, and is paged by name.
func TestLevels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, explore.Options{Idle: time.Hour})
		defer h.end()
		h.put("vehicle/1216/gateway", gateway("1216"))
		h.warm()
		h.put("vehicle/1217/gateway", gateway("1217"))
		h.put("command/1216/c1/result", `{}`)
		h.put("command/1216/c1", `{}`)
		at := time.Now()
		for i := range 40 {
			h.put("machine/1216-1/heartbeat", heartbeat(i))
			time.Sleep(time.Second)
		}
		got := h.level("", "")
		for i := range got.Rows {
			if r := got.Rows[i].Rate; (r > 0.9 && r < 1.1) != (got.Rows[i].Name == "machine") {
				t.Errorf("%s: %f a second", got.Rows[i].Name, r)
			}
			got.Rows[i].Rate = 0
		}
		want := []explore.Row{
			{Name: "command", Prefix: "command/", Topics: 2, Newest: at, Invalid: 2},
			{Name: "machine", Prefix: "machine/", Topics: 1, Newest: at.Add(39 * time.Second)},
			{Name: "vehicle", Prefix: "vehicle/", Topics: 2, Newest: at, Retained: 2},
		}
		if d := cmp.Diff(want, got.Rows); d != "" {
			t.Error(d)
		}
		if l := h.level("command/1216", ""); len(l.Rows) != 1 || l.Rows[0].Topic != root+"command/1216/c1" || l.Rows[0].Prefix != "command/1216/c1/" || l.Rows[0].Topics != 2 {
			t.Errorf("a topic with others below: %+v", l.Rows)
		}
		if l := h.level(root+"vehicle/1216/", ""); len(l.Rows) != 1 || !l.Rows[0].Newest.IsZero() || l.Rows[0].Retained != 1 {
			t.Errorf("what stood before: %+v", l.Rows)
		}
		for find, want := range map[string][]string{
			"1216":                  {"command/1216/c1", "command/1216/c1/result", "machine/1216-1/heartbeat", "vehicle/1216/gateway"},
			"tampa":                 nil, // is in all: the root does not count
			"vehicle/+/gateway":     {"vehicle/1216/gateway", "vehicle/1217/gateway"},
			root + "command/#":      {"command/1216/c1", "command/1216/c1/result"},
			"command/+/c1":          {"command/1216/c1"},
			"command/1216/c1/#":     {"command/1216/c1", "command/1216/c1/result"},
			"vehicle/+":             nil,
			root + "vehicle/1217/g": {"vehicle/1217/gateway"},
		} {
			if l := h.level("", find); !cmp.Equal(names(l), want) || l.All != len(want) {
				t.Errorf("find %s: %q of %d, want %q", find, names(l), l.All, want)
			}
		}
		if l := h.level("vehicle/", "1216"); !cmp.Equal(names(l), []string{"1216/gateway"}) {
			t.Errorf("below a level: %q", names(l))
		}
		for _, find := range []string{"", "1216"} {
			all, pages := h.level("", find), []string(nil)
			for after, more := "", true; more; more = after != "" {
				l, err := h.Levels(t.Context(), "", find, after, 1)
				if err != nil || len(l.Rows) != 1 || l.All != len(all.Rows) {
					t.Fatalf("after %q: %+v, %v", after, l, err)
				}
				pages, after = append(pages, l.Rows[0].Name), l.After
			}
			if !cmp.Equal(pages, names(all)) {
				t.Errorf("page by page %q, at once %q", pages, names(all))
			}
		}
	})
}

// TestTopic: payload, verdict, retained mark and what came before.
func TestTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, explore.Options{Idle: time.Hour})
		defer h.end()
		h.put("vehicle/1216/gateway", gateway("1216"))
		h.warm()
		name := root + "vehicle/1216/gateway"
		v, ok := h.Topic(t.Context(), name)
		if !ok || !v.Stood || !v.Retained || v.Count != 0 || v.QoS != 1 || v.Spec.Kind != topics.Gateway || v.Verdict.State != explore.Valid {
			t.Errorf("what stood: %+v", v)
		}
		if want := "{\n  \"as_of\": \"2026-11-22T05:10:00.000Z\",\n  \"vehicle\": \"1216\",\n  \"status\": \"ONLINE\",\n  \"session\": 1795521000\n}"; v.Pretty != want || v.Text != gateway("1216") {
			t.Errorf("%s\n%s", v.Pretty, v.Text)
		}
		h.put("vehicle/1216/gateway", gateway("1217"))
		v, _ = h.Topic(t.Context(), name)
		if want := (explore.Verdict{State: explore.Invalid, Text: `gateway: field "vehicle": is "1217" on the topic of "1216"`}); v.Verdict != want || v.Stood || !v.Retained || v.Count != 1 {
			t.Errorf("of another vehicle: %+v", v)
		}
		if len(v.Past) != 1 || v.Past[0].Text != gateway("1216") || v.Past[0].Verdict.State != explore.Valid {
			t.Errorf("before it: %+v", v.Past)
		}
		h.put("vehicle/1216/gateway", "")
		if v, _ = h.Topic(t.Context(), name); v.Verdict.State != explore.Cleared || v.Retained || v.Size != 0 {
			t.Errorf("cleared: %+v", v)
		}
		for i := range 20 {
			h.put("vehicle/1216/gateway", fmt.Sprintf(`[1.50,%d,1e400]`, i))
		}
		v, _ = h.Topic(t.Context(), name)
		if len(v.Past) != 9 || v.Text != "[1.50,19,1e400]" || v.Past[0].Text != "[1.50,18,1e400]" || v.Past[8].Text != "[1.50,10,1e400]" {
			t.Errorf("the last ten: %q, %d before", v.Text, len(v.Past))
		}
		if want := "[\n  1.50,\n  19,\n  1e400\n]"; v.Pretty != want {
			t.Errorf("numbers changed: %s", v.Pretty)
		}
		h.put("vehicle/1216/gateway", "\xff\x00binary")
		if v, _ = h.Topic(t.Context(), name); !strings.HasPrefix(v.Hex, "00000000  ff 00 62 69") || v.Text != "" || v.Pretty != "" {
			t.Errorf("no text: %+v", v.Message)
		}
		h.put("vehicle/1216/gateway", strings.Repeat("[", 5000)+strings.Repeat("]", 5000))
		if v, _ = h.Topic(t.Context(), name); v.Pretty != "" || v.Text == "" {
			t.Errorf("deep JSON became %d bytes", len(v.Pretty))
		}
		if v, ok := h.Topic(t.Context(), "vehicle/nobody/gateway"); ok || v.Topic != "vehicle/nobody/gateway" {
			t.Errorf("one that nothing came on: %+v", v)
		}
	})
}

// TestWhatIsLeastRecentlyChangedGoesFirst, of what does not stand at the broker; and it is said how many went.
func TestWhatIsLeastRecentlyChangedGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, explore.Options{Idle: time.Hour, MaxTopics: 4})
		defer h.end()
		h.warm()
		h.put("vehicle/1216/gateway", gateway("1216"))
		for _, m := range []string{"a", "b", "c", "a", "d"} {
			h.put("machine/"+m+"/heartbeat", heartbeat(1))
		}
		if l := h.level("machine", ""); !cmp.Equal(names(l), []string{"a", "c", "d"}) || l.Dropped != 1 || l.Topics != 4 {
			t.Errorf("%q, %+v", names(l), l.Status)
		}
		for _, v := range []string{"1", "2", "3", "4"} {
			h.put("vehicle/"+v+"/gateway", gateway(v))
		}
		l := h.level("", "")
		if !cmp.Equal(names(l), []string{"vehicle"}) || l.Rows[0].Topics != 4 || l.Rows[0].Retained != 4 || l.Dropped != 5 {
			t.Errorf("%+v", l)
		}
		if l := h.level("vehicle", ""); !cmp.Equal(names(l), []string{"1", "2", "3", "4"}) {
			t.Errorf("%q", names(l))
		}
	})
}

// TestBytesAreBounded: many payloads make room for one another.
func TestBytesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, explore.Options{Idle: time.Hour, MaxBytes: 20_000})
		defer h.end()
		h.warm()
		for i := range 20 {
			h.put(fmt.Sprintf("vehicle/%d/gateway", i), strings.Repeat("x", 3000))
		}
		if s := h.Status(); s.Bytes > 20_000 || s.Bytes < 15_000 || s.Topics+int(s.Dropped) != 20 {
			t.Errorf("%+v", s)
		}
	})
}

// TestALostConnectionIsSaid, and what was cleared meanwhile is gone when it is back.
func TestALostConnectionIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, explore.Options{Idle: time.Hour})
		defer h.end()
		h.put("vehicle/1216/gateway", gateway("1216"))
		h.put("vehicle/1217/gateway", gateway("1217"))
		h.warm()
		h.last.Close()
		synctest.Wait()
		if l := h.level("vehicle", ""); l.Connected || !l.Listening || len(l.Rows) != 2 {
			t.Errorf("without a connection: %+v", l)
		}
		h.put("vehicle/1216/gateway", "")
		time.Sleep(time.Minute)
		if l := h.level("vehicle", ""); !l.Connected || !cmp.Equal(names(l), []string{"1217"}) {
			t.Errorf("with another: %+v", l)
		}
	})
}

// TestSecretsAreNotShown: a ticket is not delivered to a viewer.
func TestSecretsAreNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, explore.Options{Idle: time.Hour})
		defer h.end()
		h.put("vehicle/1216/ticket/1216-1", `{"secret":"s"}`)
		h.warm()
		h.put("vehicle/1216/ticket/1216-1", `{"secret":"t"}`)
		h.put("vehicle/1216/gateway", gateway("1216"))
		if l := h.level("vehicle/1216", ""); !cmp.Equal(names(l), []string{"gateway"}) || l.Confidential != 0 {
			t.Errorf("%+v", l)
		}
	})
}
