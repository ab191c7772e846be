package trace

import (
	"container/heap"
	"iter"
	"slices"
	"time"
)

// Beat is one heartbeat that a machine on the traced vehicle would have sent.
type Beat struct {
	At      int64 // seconds since 1970
	Vehicle string
	Route   string
	Trip    string
	Last    bool // the interval ends here: the machine says that it shuts down
}

// Beats turns times on the line into the heartbeats of a machine on each of the
// vehicles, in the order of time: one at the start of an interval, one every
// period (at least 1 s), and one with Last at its end. Last is not sent where
// the vehicle's next interval begins at that very second, since the machine then
// only changes its route. Of the beats of one second those with Last come first.
//
// The intervals of one vehicle must not overlap (Trace.Intervals gives such).
// Memory is one entry per interval, not per beat.
func Beats(intervals []Interval, every time.Duration) iter.Seq[Beat] {
	period := max(int64(every/time.Second), 1)
	return func(yield func(Beat) bool) {
		h := make(beatHeap, 0, 64)
		for _, list := range byVehicle(intervals) {
			h = append(h, &walk{todo: list, at: list[0].From})
		}
		heap.Init(&h)
		for len(h) > 0 {
			w := h[0]
			b, more := w.next(period)
			if !yield(b) {
				return
			}
			if more {
				heap.Fix(&h, 0)
			} else {
				heap.Pop(&h)
			}
		}
	}
}

// byVehicle groups intervals, each group in the order of From, the groups in the
// order of their first interval.
func byVehicle(intervals []Interval) [][]Interval {
	sorted := slices.Clone(intervals)
	slices.SortStableFunc(sorted, byFrom)
	index := map[string]int{}
	var out [][]Interval
	for _, iv := range sorted {
		i, ok := index[iv.Vehicle]
		if !ok {
			i = len(out)
			index[iv.Vehicle] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], iv)
	}
	return out
}

// walk is one vehicle on its way through its intervals; at is its next beat.
type walk struct {
	todo []Interval
	at   int64
}

func (w *walk) last() bool { return w.at >= w.todo[0].To }

func (w *walk) next(period int64) (Beat, bool) {
	cur := w.todo[0]
	b := Beat{At: w.at, Vehicle: cur.Vehicle, Route: cur.Route, Trip: cur.Trip, Last: w.last()}
	if b.Last {
		return b, w.advance()
	}
	w.at = min(w.at+period, cur.To)
	if w.last() && len(w.todo) > 1 && w.todo[1].From <= cur.To {
		return b, w.advance()
	}
	return b, true
}

func (w *walk) advance() bool {
	w.todo = w.todo[1:]
	if len(w.todo) == 0 {
		return false
	}
	w.at = w.todo[0].From
	return true
}

type beatHeap []*walk

func (h beatHeap) Len() int { return len(h) }
func (h beatHeap) Less(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	li, lj := h[i].last(), h[j].last()
	if li != lj {
		return li
	}
	return h[i].todo[0].Vehicle < h[j].todo[0].Vehicle
}
func (h beatHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *beatHeap) Push(x any)   { *h = append(*h, x.(*walk)) }
func (h *beatHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return w
}
