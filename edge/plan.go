package edge

import (
	"slices"

	"github.com/farebeat/farebeat/edge/outbox"
)

// Range is a run of records to read from a machine: First to Last of Epoch, both
// included.
type Range struct {
	Epoch, First, Last uint32
}

// Records is a set of records of one machine, by epoch.
type Records map[uint32]outbox.Intervals

// Count returns how many records are in r.
func (r Records) Count() uint64 {
	var n uint64
	for _, set := range r {
		n += set.Count()
	}
	return n
}

// Minus returns the records of r that are not in o.
func (r Records) Minus(o Records) Records {
	out := Records{}
	for epoch, set := range r {
		if left := set.Minus(o[epoch]); len(left) > 0 {
			out[epoch] = left
		}
	}
	return out
}

// Union returns the records that are in r or in o.
func (r Records) Union(o Records) Records {
	out := Records{}
	for epoch, set := range r {
		out[epoch] = set
	}
	for epoch, set := range o {
		out[epoch] = out[epoch].Union(set)
	}
	return out
}

// Ranges returns r as runs without a hole, oldest first: lower epochs before
// higher ones, lower sequence numbers before higher ones.
func (r Records) Ranges() []Range {
	epochs := make([]uint32, 0, len(r))
	for epoch := range r {
		epochs = append(epochs, epoch)
	}
	slices.Sort(epochs)
	var out []Range
	for _, epoch := range epochs {
		for _, iv := range r[epoch] {
			out = append(out, Range{epoch, iv.First, iv.Last})
		}
	}
	return out
}

// Plan decides what to read from a machine: what it has not released, without
// what the ledger holds by the latest receipt and without what the outbox holds,
// oldest first. The same inputs always give the same plan, so a recovery that was
// cut resumes by planning again.
func Plan(unreleased, receipted, held Records) []Range {
	return unreleased.Minus(receipted).Minus(held).Ranges()
}

// Postpone moves the records of avoid to the end of a plan, so that one record
// that a machine cannot give does not keep those behind it.
func Postpone(plan []Range, avoid Records) []Range {
	if len(avoid) == 0 {
		return plan
	}
	all := Records{}
	for _, r := range plan {
		all[r.Epoch] = all[r.Epoch].Union(outbox.Of(outbox.Interval{First: r.First, Last: r.Last}))
	}
	rest := all.Minus(avoid)
	return append(rest.Ranges(), all.Minus(rest).Ranges()...)
}
