package explore

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

func newExplorer(tb testing.TB, o Options) *Explorer {
	tb.Helper()
	tree, err := topics.New("tampa")
	if err != nil {
		tb.Fatal(err)
	}
	o.Tree, o.Session = tree, session.Options{Servers: []string{"tcp://127.0.0.1:1"}} // nobody runs it
	e, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func (e *Explorer) hear(tb testing.TB, topic, payload string, retained bool) {
	if err := e.deliver(tb.Context(), &session.Delivery{Message: session.Message{Topic: topic, Payload: []byte(payload)}, Retained: retained}); err != nil {
		tb.Fatal(err)
	}
}

// TestSumsAlongTheTree: after any course of messages each level counts exactly what is below it, whatever had to make room.
func TestSumsAlongTheTree(t *testing.T) {
	now := time.Date(2026, 11, 22, 5, 10, 0, 0, time.UTC)
	e := newExplorer(t, Options{MaxTopics: 12, MaxBytes: 38_000, Now: func() time.Time { return now }})
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 20_000 {
		now = now.Add(time.Duration(r.IntN(400)) * time.Millisecond)
		topic := e.o.Tree.Root() + []string{
			fmt.Sprintf("machine/%d/heartbeat", r.IntN(6)), fmt.Sprintf("vehicle/%d/gateway", r.IntN(8)), fmt.Sprintf("command/1/c%d", r.IntN(3)),
			fmt.Sprintf("command/1/c%d/result", r.IntN(3)), "fleet", "a//b", "a/",
		}[r.IntN(7)]
		e.hear(t, topic, strings.Repeat("x", r.IntN(3)*r.IntN(1600)), r.IntN(9) == 0)
		if i%7 == 0 {
			e.Topic(t.Context(), topic)
		}
		h := e.heard
		if bytes := checkNode(t, h, h.root, now); bytes != h.bytes || h.bytes > 38_000 || len(h.topics) > 12 || h.passing.Len()+h.standing.Len() != len(h.topics) {
			t.Fatalf("message %d: %d bytes, %d counted; %d topics, %d and %d in the lists", i, h.bytes, bytes, len(h.topics), h.passing.Len(), h.standing.Len())
		}
	}
	if e.heard.dropped == 0 {
		t.Error("nothing had to make room")
	}
}

// checkNode compares a level's sums with what is below it.
func checkNode(t *testing.T, h *heard, n *node, now time.Time) (bytes int) {
	t.Helper()
	count, retained, invalid, unjudged, rate := 0, 0, 0, 0, 0.0
	n.each(func(x *topic) {
		count++
		switch v := x.last.verdict.Load(); {
		case v == nil:
			unjudged++
		case v.State == Invalid:
			invalid++
		}
		if x.retained {
			retained++
		}
		rate += x.rate.now(now)
		bytes += x.bytes
		if h.topics[x.name] != x {
			t.Fatalf("%s is not held", x.name)
		}
	})
	if diff := n.rate.now(now) - rate; n.topics != count || n.retained != retained || diff > 1e-6 || diff < -1e-6 {
		t.Fatalf("level %q: %d topics, %d retained, %f a second; below it are %d, %d, %f", n.name, n.topics, n.retained, n.rate.now(now), count, retained, rate)
	}
	if n.invalid != invalid || n.unjudged != unjudged {
		t.Fatalf("level %q: %d invalid, %d unjudged; below it are %d, %d", n.name, n.invalid, n.unjudged, invalid, unjudged)
	}
	for _, c := range n.children {
		checkNode(t, h, c, now)
	}
	return bytes
}

// TestConfidentialIsNotKept, should the broker ever deliver it.
func TestConfidentialIsNotKept(t *testing.T) {
	e := newExplorer(t, Options{})
	e.hear(t, e.o.Tree.Root()+"vehicle/1/ticket/2", "secret", true)
	e.hear(t, e.o.Tree.Root()+strings.Repeat("a/", 40), "deep", false)
	e.hear(t, e.o.Tree.Root()+strings.Repeat("a", 2000), "long", false)
	if s := e.Status(); s.Topics != 0 || s.Confidential != 3 {
		t.Errorf("%+v", s)
	}
}

func city(b *testing.B) (*Explorer, []string) {
	e := newExplorer(b, Options{})
	var names []string
	for i := range 5_000 {
		for _, f := range []string{"machine/%d-1/heartbeat", "machine/%d-1/state", "vehicle/%d/gateway", "vehicle/%d/receipt/1-1"} {
			names = append(names, e.o.Tree.Root()+fmt.Sprintf(f, i))
		}
	}
	for _, n := range names {
		e.hear(b, n, `{"seq":1}`, false)
	}
	b.ReportAllocs()
	b.ResetTimer()
	return e, names
}

// BenchmarkArrival is a full heartbeat as it comes, with its verdict.
func BenchmarkArrival(b *testing.B) {
	payload, err := os.ReadFile("../../../schemas/testdata/good/heartbeat/full.json")
	if err != nil {
		b.Fatal(err)
	}
	e, names := city(b)
	d := &session.Delivery{Message: session.Message{Payload: payload}}
	for i := 0; b.Loop(); i += 4 {
		d.Topic = names[i%len(names)] // every fourth is a heartbeat's
		if err := e.deliver(b.Context(), d); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLevels(b *testing.B) {
	for _, c := range []struct{ name, prefix, find string }{
		{"root", "", ""}, {"machines", "machine/", ""}, {"find", "", "4999"}, {"find_all", "", "e"}, {"filter", "", "vehicle/+/gateway"},
	} {
		b.Run(c.name, func(b *testing.B) {
			e, _ := city(b)
			for b.Loop() {
				if l, err := e.Levels(b.Context(), c.prefix, c.find, "", 100); err != nil || len(l.Rows) == 0 {
					b.Fatalf("%+v %v", l, err)
				}
			}
		})
	}
}
