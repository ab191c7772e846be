package city

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/edge/machine/trace"
)

// Duty is one trip of a vehicle: on the route from From to To, half-open.
type Duty struct {
	Vehicle, Route, Trip string
	From, To             time.Time
}

// FromTrace turns the times on the line of a recorded day into duties. The day
// is shifted so that its first instant becomes at; a zero at leaves it in its time.
func FromTrace(intervals []trace.Interval, at time.Time) []Duty {
	out := make([]Duty, 0, len(intervals))
	var shift time.Duration
	if len(intervals) > 0 && !at.IsZero() {
		first := slices.MinFunc(intervals, func(a, b trace.Interval) int { return cmp.Compare(a.From, b.From) })
		shift = at.Sub(first.Start())
	}
	for _, iv := range intervals {
		out = append(out, Duty{Vehicle: iv.Vehicle, Route: iv.Route, Trip: iv.Trip, From: iv.Start().Add(shift), To: iv.End().Add(shift)})
	}
	return out
}

// byVehicle groups duties, each group in the order of time and without overlap:
// a duty ends where the next one of the vehicle begins. Vehicles are in the order
// of their names, so that a seed gives the same day again.
func byVehicle(duties []Duty) ([][]Duty, error) {
	sorted := slices.Clone(duties)
	slices.SortStableFunc(sorted, func(a, b Duty) int {
		return cmp.Or(cmp.Compare(a.Vehicle, b.Vehicle), a.From.Compare(b.From), a.To.Compare(b.To))
	})
	var out [][]Duty
	for i, d := range sorted {
		if d.Vehicle == "" || d.Route == "" || !d.To.After(d.From) {
			return nil, fmt.Errorf("duty of vehicle %q on route %q from %s to %s: it needs a vehicle, a route and an end after its beginning", d.Vehicle, d.Route, d.From.Format(time.RFC3339), d.To.Format(time.RFC3339))
		}
		same := i+1 < len(sorted) && sorted[i+1].Vehicle == d.Vehicle
		if same && sorted[i+1].From.Before(d.To) {
			d.To = sorted[i+1].From
		}
		if !d.To.After(d.From) {
			continue // of two that begin together the longer one stays
		}
		if len(out) == 0 || out[len(out)-1][0].Vehicle != d.Vehicle {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], d)
	}
	return out, nil
}
