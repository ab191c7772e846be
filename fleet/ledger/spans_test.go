package ledger

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func at() time.Time { return time.Date(2018, 6, 12, 5, 0, 0, 0, time.UTC) }

// model is a set of numbers from 1 to 64, the plain way.
type model map[uint32]bool

func drawSpan(t *rapid.T, label string) Span {
	first := rapid.Uint32Range(1, 64).Draw(t, label)
	return Span{first, min(64, first+rapid.Uint32Range(0, 12).Draw(t, label+" length"))}
}

func drawSpans(t *rapid.T, label string) (Spans, model) {
	var s Spans
	m := model{}
	for range rapid.IntRange(0, 20).Draw(t, label+" count") {
		n := drawSpan(t, label)
		s = s.Add(n)
		for seq := n.First; seq <= n.Last; seq++ {
			m[seq] = true
		}
		if !s.valid() {
			t.Fatalf("after %v: %v is out of order", n, s)
		}
	}
	return s, m
}

func TestSpansAreASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, m := drawSpans(t, "span")
		var highest, complete uint32
		for seq := uint32(1); seq <= 66; seq++ {
			if s.Holds(seq) != m[seq] {
				t.Fatalf("%v holds %d: %v", s, seq, s.Holds(seq))
			}
			if m[seq] {
				highest = seq
			}
			if m[seq] && complete == seq-1 {
				complete = seq
			}
		}
		if s.Len() != uint64(len(m)) || s.Highest() != highest || s.CompleteTo() != complete {
			t.Fatalf("%v: len %d, highest %d, complete to %d; want %d, %d, %d", s, s.Len(), s.Highest(), s.CompleteTo(), len(m), highest, complete)
		}
		gaps := s.Gaps()
		if !gaps.valid() {
			t.Fatalf("gaps %v of %v are out of order", gaps, s)
		}
		for seq := uint32(1); seq <= 66; seq++ {
			if want := !m[seq] && seq < highest; gaps.Holds(seq) != want {
				t.Fatalf("gaps %v of %v hold %d: want %v", gaps, s, seq, want)
			}
		}
	})
}

func TestMinusIsSetDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, inA := drawSpans(t, "a")
		b, inB := drawSpans(t, "b")
		d := a.minus(b)
		if !d.valid() {
			t.Fatalf("%v minus %v is %v", a, b, d)
		}
		for seq := uint32(1); seq <= 66; seq++ {
			if want := inA[seq] && !inB[seq]; d.Holds(seq) != want {
				t.Fatalf("%v minus %v is %v: holds %d, want %v", a, b, d, seq, want)
			}
		}
	})
}

func TestAddLeavesTheSetAlone(t *testing.T) {
	s := Spans{{1, 3}, {7, 9}}
	_ = s.Add(Span{4, 4})
	_ = s.Add(Span{2, 20})
	if diff := cmp.Diff(Spans{{1, 3}, {7, 9}}, s); diff != "" {
		t.Error(diff)
	}
}

func TestSpansAtTheEdges(t *testing.T) {
	const top = math.MaxUint32
	s := Spans(nil).Add(Span{top, top}).Add(Span{1, 1}).Add(Span{top - 1, top - 1})
	if diff := cmp.Diff(Spans{{1, 1}, {top - 1, top}}, s); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Spans{{2, top - 2}}, s.Gaps()); diff != "" {
		t.Error(diff)
	}
	if got := s.Add(Span{2, top - 2}); got.CompleteTo() != top || got.Len() != top || len(got.Gaps()) != 0 {
		t.Errorf("full set: %v", got)
	}
	if diff := cmp.Diff(Spans{{2, top - 2}}, Spans{Every()}.minus(s)); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []Span{{0, 5}, {9, 8}} {
		if got := s.Add(bad); len(got) != len(s) {
			t.Errorf("adding %v gives %v", bad, got)
		}
	}
}

func TestReceiptOfManyGaps(t *testing.T) {
	var s Spans
	for i := range uint32(100) {
		s = s.Add(Span{2*i + 2, 2*i + 2}) // 2, 4, 6 ... 200
	}
	e := state(1, s)
	if e.CompleteTo != 0 || len(e.Gaps) != 64 || e.Highest != 128 {
		t.Fatalf("complete to %d, %d gaps, highest %d", e.CompleteTo, len(e.Gaps), e.Highest)
	}
	for seq := uint32(1); seq <= 201; seq++ {
		if e.Holds(seq) && !s.Holds(seq) {
			t.Errorf("the receipt promises %d, which is not here", seq)
		}
	}
	// A page of spans that was cut off says nothing that all of them would not.
	if diff := cmp.Diff(e, state(1, s[:66])); diff != "" {
		t.Errorf("of the first 66 spans: %s", diff)
	}
}

func TestChooseKeepsWhatIsWaitedFor(t *testing.T) {
	all := []uint32{20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 3}
	if diff := cmp.Diff([]uint32{20, 19, 18, 17, 16, 15, 14, 13}, choose(all, nil)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]uint32{20, 19, 18, 17, 16, 15, 14, 3}, choose(all, []uint32{3, 99})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]uint32{2, 1}, choose([]uint32{2, 1}, []uint32{1})); diff != "" {
		t.Error(diff)
	}
}

func TestMajor(t *testing.T) {
	for _, c := range []struct {
		minor    int64
		currency string
		want     string
	}{
		{225, "USD", "2.25"},
		{5, "EUR", "0.05"},
		{-5, "EUR", "-0.05"},
		{0, "CNY", "0.00"},
		{230, "JPY", "230"},
		{-1, "JPY", "-1"},
		{1, "KWD", "0.001"},
		{12345, "BHD", "12.345"},
		{10000, "CLF", "1.0000"},
		{math.MinInt64, "USD", "-92233720368547758.08"},
	} {
		if got := Major(c.minor, c.currency); got != c.want {
			t.Errorf("%d %s: %s, want %s", c.minor, c.currency, got, c.want)
		}
	}
}
