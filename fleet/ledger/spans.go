package ledger

import (
	"math"
	"slices"
	"sort"
)

// Span is a run of sequence numbers, First and Last included. Sequence numbers count from 1.
type Span struct {
	First uint32 `json:"first"`
	Last  uint32 `json:"last"`
}

// Every is the span of all sequence numbers.
func Every() Span { return Span{1, math.MaxUint32} }

// Len is how many numbers the span has.
func (s Span) Len() uint64 {
	if s.Last < s.First {
		return 0
	}
	return uint64(s.Last) - uint64(s.First) + 1
}

// Overlaps reports whether the two have a number in common.
func (s Span) Overlaps(o Span) bool { return s.First <= o.Last && o.First <= s.Last }

// Around is the span with one number more on either side, as far as there are any.
func (s Span) Around() Span {
	if s.First > 1 {
		s.First--
	}
	if s.Last < math.MaxUint32 {
		s.Last++
	}
	return s
}

// Spans is a set of sequence numbers as spans in ascending order that neither overlap nor
// touch. It is a value: no method changes it. The empty set is nil.
type Spans []Span

// Add returns the set with the numbers of n too.
func (s Spans) Add(n Span) Spans {
	if n.Len() == 0 || n.First == 0 {
		return s
	}
	wide := n.Around()
	from := sort.Search(len(s), func(i int) bool { return s[i].Last >= wide.First })
	to := from
	for to < len(s) && s[to].First <= wide.Last {
		n.First = min(n.First, s[to].First)
		n.Last = max(n.Last, s[to].Last)
		to++
	}
	return slices.Concat(s[:from], Spans{n}, s[to:])
}

// Holds reports whether seq is in the set.
func (s Spans) Holds(seq uint32) bool {
	i := sort.Search(len(s), func(i int) bool { return s[i].Last >= seq })
	return i < len(s) && s[i].First <= seq
}

// CompleteTo is the greatest n for which all of 1..n are in the set, 0 if 1 is not.
func (s Spans) CompleteTo() uint32 {
	if len(s) == 0 || s[0].First != 1 {
		return 0
	}
	return s[0].Last
}

// Highest is the greatest number in the set, 0 for none.
func (s Spans) Highest() uint32 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].Last
}

// Len is how many numbers the set has.
func (s Spans) Len() uint64 {
	var n uint64
	for _, span := range s {
		n += span.Len()
	}
	return n
}

// Gaps are the numbers from 1 to Highest that are not in the set.
func (s Spans) Gaps() Spans {
	var gaps Spans
	next := uint32(1)
	for _, span := range s {
		if span.First > next {
			gaps = append(gaps, Span{next, span.First - 1})
		}
		next = span.Last + 1 // wraps after the last span only, where it is not read
	}
	return gaps
}

// valid reports whether s is ordered as a Spans must be.
func (s Spans) valid() bool {
	for i, span := range s {
		if span.First == 0 || span.Len() == 0 || i > 0 && (s[i-1].Last >= span.First || s[i-1].Last+1 == span.First) {
			return false
		}
	}
	return true
}
