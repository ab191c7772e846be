package outbox_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/edge/outbox"
)

const top = 1<<32 - 1 // the greatest sequence number

// Sets of numbers behave as maps from numbers do, and stay in normal form.
func TestIntervalsAreSets(t *testing.T) {
	draw := func(t *rapid.T, label string) (outbox.Intervals, map[uint32]bool) {
		var ivs []outbox.Interval
		model := map[uint32]bool{}
		for range rapid.IntRange(0, 8).Draw(t, label) {
			base := rapid.SampledFrom([]uint32{0, top - 60}).Draw(t, "base")
			iv := outbox.Interval{First: base + rapid.Uint32Range(0, 50).Draw(t, "first"), Last: base + rapid.Uint32Range(0, 60).Draw(t, "last")}
			ivs = append(ivs, iv)
			if iv.First >= 1 {
				for n := uint64(iv.First); n <= uint64(iv.Last); n++ {
					model[uint32(n)] = true
				}
			}
		}
		return outbox.Of(ivs...), model
	}
	rapid.Check(t, func(t *rapid.T) {
		a, inA := draw(t, "a")
		b, inB := draw(t, "b")
		for name, c := range map[string]struct {
			got  outbox.Intervals
			want func(n uint32) bool
		}{
			"a":           {a, func(n uint32) bool { return inA[n] }},
			"a union b":   {a.Union(b), func(n uint32) bool { return inA[n] || inB[n] }},
			"a minus b":   {a.Minus(b), func(n uint32) bool { return inA[n] && !inB[n] }},
			"a and b":     {a.Intersect(b), func(n uint32) bool { return inA[n] && inB[n] }},
			"a and not a": {a.Minus(a), func(uint32) bool { return false }},
		} {
			var count uint64
			for _, n := range append(span(0, 115), span(top-62, top)...) {
				has := c.got.Covers(outbox.Interval{First: n, Last: n})
				if want := n > 0 && c.want(n); has != want {
					t.Fatalf("%s has %d: %v, want %v (a %v, b %v, got %v)", name, n, has, want, a, b, c.got)
				}
				if has {
					count++
				}
			}
			if c.got.Count() != count {
				t.Fatalf("%s counts %d, want %d", name, c.got.Count(), count)
			}
			for i := 1; i < len(c.got); i++ {
				if c.got[i].First <= c.got[i-1].Last+1 {
					t.Fatalf("%s is not in normal form: %v", name, c.got)
				}
			}
		}
	})
}

func span(first, last uint32) []uint32 {
	out := make([]uint32, 0, last-first+1)
	for n := uint64(first); n <= uint64(last); n++ {
		out = append(out, uint32(n))
	}
	return out
}

func TestPieces(t *testing.T) {
	for want, s := range map[int]outbox.Intervals{
		0: nil,
		1: outbox.Of(outbox.Interval{First: 1, Last: 200}),
		2: outbox.Of(outbox.Interval{First: 1, Last: 201}),
		4: outbox.Of(outbox.Interval{First: 1, Last: 400}, outbox.Interval{First: 500, Last: 500}, outbox.Interval{First: top, Last: top}),
	} {
		if got := s.Pieces(200); got != want {
			t.Errorf("%v has %d pieces, want %d", s, got, want)
		}
	}
}
