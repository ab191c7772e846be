package outbox

import "slices"

// Interval is the sequence numbers First to Last, both included. First is at
// least 1 and at most Last.
type Interval struct {
	First, Last uint32
}

// Intervals is a set of sequence numbers of one epoch: sorted, disjoint, and no
// two of them touching. The zero value is the empty set. Its methods never
// change the receiver's backing array; they return a new set.
type Intervals []Interval

// Of returns the set that holds every number of ivs, which may be in any order,
// overlap or touch. Intervals that run backwards or start at 0 are no numbers
// and are left out.
func Of(ivs ...Interval) Intervals {
	in := make([]Interval, 0, len(ivs))
	for _, iv := range ivs {
		if iv.First >= 1 && iv.First <= iv.Last {
			in = append(in, iv)
		}
	}
	slices.SortFunc(in, func(a, b Interval) int {
		if a.First < b.First {
			return -1
		}
		if a.First > b.First {
			return 1
		}
		return 0
	})
	var out Intervals
	for _, iv := range in {
		if n := len(out); n > 0 && uint64(iv.First) <= uint64(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, iv.Last)
			continue
		}
		out = append(out, iv)
	}
	return out
}

// Union returns the numbers that are in s or in o.
func (s Intervals) Union(o Intervals) Intervals {
	if len(o) == 0 {
		return s
	}
	return Of(append(slices.Clone(s), o...)...)
}

// Minus returns the numbers of s that are not in o.
func (s Intervals) Minus(o Intervals) Intervals {
	var out Intervals
	j := 0
	for _, iv := range s {
		first := uint64(iv.First) // 64 bits, so that the number after the last one exists
		for j < len(o) && o[j].Last < iv.First {
			j++
		}
		for k := j; k < len(o) && o[k].First <= iv.Last; k++ {
			if uint64(o[k].First) > first {
				out = append(out, Interval{uint32(first), o[k].First - 1})
			}
			first = uint64(o[k].Last) + 1
		}
		if first <= uint64(iv.Last) {
			out = append(out, Interval{uint32(first), iv.Last})
		}
	}
	return out
}

// Intersect returns the numbers that are in both s and o.
func (s Intervals) Intersect(o Intervals) Intervals {
	return s.Minus(s.Minus(o))
}

// Covers reports whether every number of iv is in s.
func (s Intervals) Covers(iv Interval) bool {
	i, found := slices.BinarySearchFunc(s, iv.First, func(a Interval, first uint32) int {
		switch {
		case a.Last < first:
			return -1
		case a.First > first:
			return 1
		}
		return 0
	})
	return found && s[i].Last >= iv.Last
}

// Count returns how many numbers are in s.
func (s Intervals) Count() uint64 {
	var n uint64
	for _, iv := range s {
		n += uint64(iv.Last) - uint64(iv.First) + 1
	}
	return n
}

// Pieces returns how many pieces of at most size numbers s falls into, when no
// piece may span a hole. size is at least 1.
func (s Intervals) Pieces(size uint32) int {
	n := 0
	for _, iv := range s {
		n += int((uint64(iv.Last) - uint64(iv.First)) / uint64(size))
		n++
	}
	return n
}
