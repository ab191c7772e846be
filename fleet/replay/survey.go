package replay

import (
	"context"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
)

// survey is the first reading of the minutes: how many there are, and the expectation that stands in
// them. It is an expect.Source.
type survey struct {
	source   string
	frames   int // minutes, those of the warm-up too
	counted  int // without them
	last     time.Time
	routes   map[string]bool
	expected map[string]map[int64]int // by route and hour, of routes of which anything was expected
	location *time.Location
}

var _ expect.Source = (*survey)(nil)

func look(ctx context.Context, frames Frames, o Options) (*survey, error) {
	s := &survey{source: o.Source, location: o.Location, routes: map[string]bool{}, expected: map[string]map[int64]int{}}
	err := frames.Frames(ctx, o.From.Add(-WarmUp), o.To, func(f counts.Frame) error {
		s.frames++
		s.last = f.At
		if !f.At.Before(o.From) {
			s.counted++
		}
		hour := hourOf(f.At, o.Location)
		for _, row := range f.Rows {
			if o.Route != "" && row.Route != o.Route {
				continue
			}
			s.routes[row.Route] = true
			hours := s.expected[row.Route]
			if hours == nil && row.Expected == 0 {
				continue // perhaps nobody ever knows
			}
			if hours == nil {
				hours = map[int64]int{}
				s.expected[row.Route] = hours
			}
			hours[hour] = row.Expected
		}
		return ctx.Err()
	})
	return s, err
}

// hourOf is the start of the hour of the local clock, in seconds since 1970.
func hourOf(t time.Time, loc *time.Location) int64 {
	l := t.In(loc)
	return t.Unix() - int64(l.Minute()*60+l.Second())
}

// Expect implements expect.Source with the numbers of the hours. An hour without minutes is
// taken for the one that was asked for.
func (s *survey) Expect(route string, at time.Time) (expect.Expectation, bool) {
	hours, ok := s.expected[route]
	if !ok {
		return expect.Expectation{Source: expect.SourceNone}, false
	}
	n := hours[hourOf(at, s.location)]
	e := expect.Expectation{Expected: n, Now: n, Lowest: n, Source: s.source}
	for _, near := range []time.Time{at.Add(-expect.DutyChange), at.Add(expect.DutyChange)} {
		if m, ok := hours[hourOf(near, s.location)]; ok {
			e.Lowest = min(e.Lowest, m)
		}
	}
	return e, true
}

// Routes implements expect.Source with every route that has minutes.
func (s *survey) Routes(time.Time) []string {
	out := make([]string, 0, len(s.routes))
	for r := range s.routes {
		out = append(out, r)
	}
	return out
}
