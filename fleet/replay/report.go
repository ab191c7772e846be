package replay

import (
	"cmp"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
)

// Outcome is one fault that would have fired.
type Outcome struct {
	Fault faults.Fault // Reason and Route are those of its opening
	Pages []time.Time  // when somebody would have been told that it opened or came back
	Live  []string     // ids of the faults that fired live at that time; empty: it is new
}

// Report is what a replay found.
type Report struct {
	From, To     time.Time // first and last minute that was judged
	Location     *time.Location
	Routes       int
	RouteMinutes int // judged
	BlindMinutes int // of routes, in which nothing was decided

	Faults   []Outcome      // opened within the time, in that order
	Standing []Outcome      // opened in the warm-up and still open when the time began
	Missed   []faults.Fault // fired live, and would not have; oldest first
	Live     int            // fired live within the time, reports by hand not counted
	Days     []Day
}

// Day is one route on one local date. Those without any fault are left out.
type Day struct {
	Date   string // YYYY-MM-DD
	Route  string
	Faults int // opened
	Pages  int
	New    int // of Faults
	Missed int
}

// matchWithin is by how much two faults of a route may miss each other and still be the same: a
// replay of minutes is no more exact.
const matchWithin = 5 * time.Minute

// Pages is how often somebody would have been told that a route's fault opened or came back.
func (r *Report) Pages() int {
	n := 0
	for _, list := range [][]Outcome{r.Faults, r.Standing} {
		for _, o := range list {
			n += len(o.Pages)
		}
	}
	return n
}

// New is how many of Faults did not fire live.
func (r *Report) New() int {
	n := 0
	for _, o := range r.Faults {
		if len(o.Live) == 0 {
			n++
		}
	}
	return n
}

// RouteWeeks is how long was judged, over all routes.
func (r *Report) RouteWeeks() float64 { return float64(r.RouteMinutes) / (7 * 24 * 60) }

// Per100 is n for each 100 route-weeks; 0 where nothing was judged.
func (r *Report) Per100(n int) float64 {
	if r.RouteMinutes == 0 {
		return 0
	}
	return float64(n) / r.RouteWeeks() * 100
}

func (r *run) report(fired []faults.Fault, s *survey) *Report {
	out := &Report{
		From: r.begun, To: r.judged, Location: r.o.Location, Routes: len(s.routes),
		RouteMinutes: r.minutes, BlindMinutes: r.blind,
	}
	byRoute := map[string][]*Outcome{}
	for _, id := range r.order {
		o := r.outcomes[id]
		byRoute[o.Fault.Subject.Route] = append(byRoute[o.Fault.Subject.Route], o)
	}
	slices.SortFunc(fired, func(a, b faults.Fault) int { return faults.Compare(b, a) })
	for _, f := range fired {
		if f.Kind == faults.Platform || r.o.Route != "" && f.Subject.Route != r.o.Route {
			continue
		}
		within := !f.OpenedAt.Before(r.o.From)
		if within {
			out.Live++
		}
		found := false
		for _, o := range byRoute[f.Subject.Route] {
			if overlap(&f, &o.Fault) {
				o.Live, found = append(o.Live, f.ID), true
			}
		}
		if !found && within {
			out.Missed = append(out.Missed, f)
		}
	}
	for _, id := range r.order {
		switch o := r.outcomes[id]; {
		case !o.Fault.OpenedAt.Before(r.o.From):
			out.Faults = append(out.Faults, *o)
		case !o.Fault.Ended() || !o.Fault.ClosedAt.Before(r.o.From):
			out.Standing = append(out.Standing, *o)
		}
	}
	out.Days = days(out)
	return out
}

// overlap reports whether two faults of a route stood at the same time, or nearly.
func overlap(a, b *faults.Fault) bool {
	return (a.ClosedAt.IsZero() || b.OpenedAt.Before(a.ClosedAt.Add(matchWithin))) &&
		(b.ClosedAt.IsZero() || a.OpenedAt.Before(b.ClosedAt.Add(matchWithin)))
}

func days(r *Report) []Day {
	type key struct{ date, route string }
	all := map[key]*Day{}
	at := func(t time.Time, route string) *Day {
		k := key{t.In(r.Location).Format(time.DateOnly), route}
		if all[k] == nil {
			all[k] = &Day{Date: k.date, Route: route}
		}
		return all[k]
	}
	for _, o := range r.Faults {
		d := at(o.Fault.OpenedAt, o.Fault.Subject.Route)
		d.Faults++
		if len(o.Live) == 0 {
			d.New++
		}
	}
	for _, list := range [][]Outcome{r.Faults, r.Standing} {
		for _, o := range list {
			for _, p := range o.Pages {
				at(p, o.Fault.Subject.Route).Pages++
			}
		}
	}
	for _, f := range r.Missed {
		at(f.OpenedAt, f.Subject.Route).Missed++
	}
	out := make([]Day, 0, len(all))
	for _, d := range all {
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b Day) int { return cmp.Or(cmp.Compare(a.Date, b.Date), cmp.Compare(a.Route, b.Route)) })
	return out
}
