package expect

import (
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

// Said is what one source says of a route at an instant; the numbers are those of Expectation.
type Said struct {
	Source     string `json:"source"` // one of the Source constants
	Expected   int    `json:"expected"`
	Now        int    `json:"now"`
	Lowest     int    `json:"lowest"`
	SampleSize int    `json:"sample_size"`
	Low        int    `json:"low"`
	LowSample  int    `json:"low_sample_size"`
	// Silent is why the source says nothing; empty if it does.
	Silent string `json:"silent,omitempty"`
}

// LeftDay is a day that history learned nothing from.
type LeftDay struct {
	Date   string `json:"date"` // YYYY-MM-DD
	Reason string `json:"reason"`
}

// Why is what each source says of a route at an instant, and which of them counts.
type Why struct {
	Route   string    `json:"route_id"`
	At      time.Time `json:"at"`
	Day     string    `json:"day_type"`
	InForce Said      `json:"in_force"`
	Sources []Said    `json:"sources"`       // first come, first served
	LeftOut []LeftDay `json:"days_left_out"` // of history, oldest first
}

// Sources are what a chain is made of, each by itself. Timetable, Feed and History are nil where there is none.
type Sources struct {
	Hand, Timetable Source
	Feed            *gtfs.Feed // of Timetable
	Days            Days
	History         *History
	Retired         Retired
	InForce         Source         // the chain of all, as it counts
	Location        *time.Location // of the days
}

// Why asks each source by itself, and what is in force.
func (s Sources) Why(route string, at time.Time) Why {
	date := gtfs.DateOf(at.In(s.Location))
	w := Why{Route: route, At: at, Day: s.Days.Type(date).String(), Sources: []Said{}, LeftOut: []LeftDay{}}
	inForce, _ := s.InForce.Expect(route, at)
	w.InForce = sayOf(inForce)
	ask := func(name string, source Source, silent string) {
		if source != nil {
			if said, ok := source.Expect(route, at); ok {
				w.Sources = append(w.Sources, sayOf(said))
				return
			}
		}
		w.Sources = append(w.Sources, Said{Source: name, Silent: silent})
	}
	ask(SourceHand, s.Hand, "no number is set for this hour")
	silent := "none is configured"
	if s.Timetable != nil {
		silent = "it has no such route on this date"
	}
	if s.Feed != nil && !s.Feed.Covers(date) {
		silent = s.Feed.Expiry(date, 0)
	}
	ask(SourceTimetable, s.Timetable, silent)
	if s.History == nil {
		ask(SourceHistory, nil, "nothing was learned yet")
		return w
	}
	silent = fmt.Sprintf("%d days with counts are behind it, at least %d are needed", s.History.Sample(route, at), MinDays)
	switch {
	case s.Days.Type(date) == Special:
		silent = "the day is like no other"
	case slices.Contains(s.Retired.Gone, route):
		silent = "an earlier timetable had the route, the one in force has not"
	}
	ask(SourceHistory, s.History.Without(s.Retired.Gone), silent)
	for _, left := range s.History.LeftOut() {
		w.LeftOut = append(w.LeftOut, LeftDay{left.Date.String(), left.Reason})
	}
	return w
}

func sayOf(e Expectation) Said {
	return Said{
		Source: e.Source, Expected: e.Expected, Now: e.Now, Lowest: e.Lowest, SampleSize: e.SampleSize, Low: e.Low, LowSample: e.LowSample,
	}
}
