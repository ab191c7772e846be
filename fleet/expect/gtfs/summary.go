package gtfs

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Summary says what is in a feed.
type Summary struct {
	Routes    int // that have trips
	Trips     int
	Headways  int // trips that run by frequencies.txt
	Services  int // that have trips
	Blocks    int // block_ids
	Unblocked int // trips without a block_id, each a vehicle of its own
	// Quiet are dates that the feed covers, and on which nothing runs.
	Quiet []Date
	// Overlaps are trips that one vehicle would drive at the same time, the first of each block.
	Overlaps []Overlap
}

// Overlap is a block with two trips at once, on different routes or the same.
type Overlap struct {
	Block  string
	Trips  [2]string
	Routes [2]string
	Date   Date // the first on which it happens
}

// Summary reads through the feed.
func (f *Feed) Summary() Summary {
	s := Summary{Routes: len(f.Routes()), Trips: len(f.trips)}
	blocks := map[string]bool{}
	for i := range f.trips {
		t := &f.trips[i]
		if len(t.frequencies) > 0 {
			s.Headways++
		}
		if t.block == "" {
			s.Unblocked++
			continue
		}
		blocks[t.block] = true
	}
	s.Blocks = len(blocks)
	for _, service := range f.ordered {
		if service.trips > 0 {
			s.Services++
		}
	}
	seen := map[string]bool{}    // what runs, as text
	overlap := map[string]bool{} // blocks
	for d := f.covered.first; f.covered.ok && !f.covered.last.Before(d); d = d.AddDays(1) {
		runs := f.running(d)
		if len(runs) == 0 {
			s.Quiet = append(s.Quiet, d)
		}
		if key := fmt.Sprint(runs); !seen[key] {
			seen[key] = true
			s.Overlaps = append(s.Overlaps, overlaps(f.Duties(d), d, overlap)...)
		}
	}
	slices.SortFunc(s.Overlaps, func(a, b Overlap) int { return cmp.Compare(a.Block, b.Block) })
	return s
}

// overlaps finds the first overlap of each vehicle in duties, which are by vehicle and time, but for those in seen, to which it adds.
func overlaps(duties []Duty, d Date, seen map[string]bool) []Overlap {
	var found []Overlap
	var until time.Time // when the trip of last ends
	last := -1
	for i, duty := range duties {
		if last < 0 || duties[last].Vehicle != duty.Vehicle {
			last, until = i, duty.To
			continue
		}
		if duty.From.Before(until) && duty.From.Before(duty.To) && !seen[duty.Vehicle] {
			seen[duty.Vehicle] = true
			found = append(found, Overlap{
				Block: duty.Vehicle, Trips: [2]string{duties[last].Trip, duty.Trip}, Routes: [2]string{duties[last].Route, duty.Route}, Date: d,
			})
		}
		if duty.To.After(until) {
			last, until = i, duty.To
		}
	}
	return found
}
