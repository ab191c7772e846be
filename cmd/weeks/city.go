package main

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
	"github.com/farebeat/farebeat/fleet/expect/tampa"
	"github.com/farebeat/farebeat/fleet/rules"
)

// span is a time from (inclusive) to (exclusive), since the start of the run.
type span struct{ from, to time.Duration }

func (s span) holds(at time.Duration) bool { return s.from <= at && at < s.to }

// leg is one vehicle on one route, from the departure of a trip to that of the next.
type leg struct {
	span
	route, trip string
}

// shift is a vehicle's time on the line without a way to the depot.
type shift struct {
	span
	legs []leg
}

// machine is the one payment machine of a block.
type machine struct {
	id, vehicle string
	phase       time.Duration // of its heartbeats
	shifts      []shift       // in order, disjoint
	down        []span        // broken, by itself
	cut         []span        // silenced by an outage, in order, disjoint
}

// city is all that happens in a run but the loss of single heartbeats.
type city struct {
	start    time.Time
	length   time.Duration
	source   *expect.Timetable
	rules    *rules.Set
	machines []*machine // by phase
	outages  []*outage
	redrawn  int     // draws that were no outage by definition
	weeks    float64 // route-weeks: days on which the timetable has a route, by 7
}

// Lateness. A trip departs late, and takes longer than planned, each by an exponential time cut at five minutes.
// What is late stays late over the layovers that are too short for it, but at most ten minutes.
const (
	departsLate = time.Minute
	takesLonger = 90 * time.Second
	latestOne   = 5 * time.Minute
	latestAll   = 10 * time.Minute
)

// Machines that break.
const (
	meanDown = 20 * time.Minute
	lossRate = 0.005 // of single heartbeats, independent
	interval = 15 * time.Second
)

func exponential(r *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(r.ExpFloat64() * float64(mean))
}

// newCity draws a city. Each part has a source of chance of its own, so that one more
// outage does not move the machines' failures.
func newCity(ctx context.Context, o options) (*city, error) {
	feed, err := tampa.Feed(ctx)
	if err != nil {
		return nil, err
	}
	set, err := rules.Parse("of the run", o.rules, feed.Location)
	if err != nil {
		return nil, err
	}
	first := gtfs.Date{Year: 2018, Month: time.June, Day: 4}
	c := &city{
		start: first.Midnight(feed.Location), length: first.AddDays(o.days).Midnight(feed.Location).Sub(first.Midnight(feed.Location)),
		source: expect.NewTimetable(feed), rules: set,
	}
	for day := range o.days {
		c.weeks += float64(len(c.source.Routes(first.AddDays(day).Midnight(feed.Location)))) / 7
	}
	c.drive(feed, first, o)
	c.wear(rand.New(rand.NewPCG(o.seed, 2)), o.availability)
	if err := c.draw(rand.New(rand.NewPCG(o.seed, 3)), o.outages); err != nil {
		return nil, err
	}
	return c, nil
}

// drive gives every block of every date a vehicle with its machine: the same one each day, and another where that of the
// day before is still under way. The date before the first is there for what it runs past midnight.
func (c *city) drive(feed *gtfs.Feed, first gtfs.Date, o options) {
	r := rand.New(rand.NewPCG(o.seed, 1))
	ofBlock := map[string][]*machine{}
	for day := -1; day < o.days; day++ {
		for duties := range blocks(feed.Duties(first.AddDays(day))) {
			block, shifts := duties[0].Vehicle, c.shifts(duties, r)
			i := slices.IndexFunc(ofBlock[block], func(m *machine) bool { return m.shifts[len(m.shifts)-1].to <= shifts[0].from })
			if i < 0 {
				i = len(ofBlock[block])
				vehicle := block + strings.Repeat("b", i)
				m := &machine{id: vehicle + "-1", vehicle: vehicle, phase: time.Duration(r.Int64N(int64(interval/time.Millisecond))) * time.Millisecond}
				ofBlock[block] = append(ofBlock[block], m)
				c.machines = append(c.machines, m)
			}
			m := ofBlock[block][i]
			m.shifts = append(m.shifts, shifts...)
		}
	}
	slices.SortFunc(c.machines, func(a, b *machine) int { return cmp.Or(cmp.Compare(a.phase, b.phase), cmp.Compare(a.id, b.id)) })
}

// blocks gives the duties of each vehicle, which Feed.Duties sorted by vehicle and time.
func blocks(duties []gtfs.Duty) func(yield func([]gtfs.Duty) bool) {
	return func(yield func([]gtfs.Duty) bool) {
		for len(duties) > 0 {
			n := 1
			for n < len(duties) && duties[n].Vehicle == duties[0].Vehicle {
				n++
			}
			if !yield(duties[:n]) {
				return
			}
			duties = duties[n:]
		}
	}
}

// shifts drives the trips of one block of one date, late as buses are. Between two trips the vehicle stands on the
// route of the first; where the timetable leaves it longer than expect.Layover it goes to the depot.
func (c *city) shifts(duties []gtfs.Duty, r *rand.Rand) []shift {
	late := func(mean time.Duration) time.Duration { return min(exponential(r, mean), latestOne) }
	var out []shift
	var arrived time.Duration
	for i, d := range duties {
		from, to := d.From.Sub(c.start), d.To.Sub(c.start)
		departs := max(from+late(departsLate), arrived)
		arrived = max(min(departs+(to-from)+late(takesLonger), to+latestAll), departs+time.Minute)
		l := leg{span{departs, arrived}, d.Route, d.Trip}
		if i == 0 || d.From.Sub(duties[i-1].To) > expect.Layover {
			out = append(out, shift{})
		}
		s := &out[len(out)-1]
		if n := len(s.legs); n > 0 {
			s.legs[n-1].to = departs
		} else {
			s.from = departs
		}
		s.legs, s.to = append(s.legs, l), arrived
	}
	return out
}

// wear breaks machines: up and down by turns, each for an exponential time, so that in the long run a machine is up
// for the given share.
func (c *city) wear(r *rand.Rand, availability float64) {
	meanUp := time.Duration(float64(meanDown) * availability / (1 - availability))
	// By name, so that a change of phases does not hand one machine's failures to another.
	byID := slices.Clone(c.machines)
	slices.SortFunc(byID, func(a, b *machine) int { return cmp.Compare(a.id, b.id) })
	for _, m := range byID {
		var at time.Duration
		if r.Float64() >= availability {
			m.down = append(m.down, span{-1, exponential(r, meanDown)})
			at = m.down[0].to
		}
		for at < c.length {
			at += exponential(r, meanUp)
			back := at + exponential(r, meanDown)
			m.down = append(m.down, span{at, back})
			at = back
		}
	}
}

// isDown reports whether the machine is broken at an instant.
func (m *machine) isDown(at time.Duration) bool { return within(m.down, at) }

// within reports whether one of sorted, disjoint spans holds an instant.
func within(spans []span, at time.Duration) bool {
	i, _ := slices.BinarySearchFunc(spans, at, func(s span, at time.Duration) int {
		if s.to <= at {
			return -1
		}
		return 1
	})
	return i < len(spans) && spans[i].holds(at)
}

// visits lists when the vehicle is on a route within w, as spans of unbroken presence.
func (m *machine) visits(route string, w span) []span {
	var out []span
	for _, s := range m.shifts {
		for _, l := range s.legs {
			if l.route != route || l.to <= w.from || l.from >= w.to {
				continue
			}
			if n := len(out); n > 0 && out[n-1].to == l.from {
				out[n-1].to = l.to
				continue
			}
			out = append(out, l.span)
		}
	}
	return out
}
