package expect

import (
	"cmp"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

// Layover is the longest wait between two trips of a block that still counts as
// service, on the route of the trip before it. A longer one is a trip to the depot.
const Layover = 30 * time.Minute

// occupancy is one vehicle on one route from (inclusive) to (exclusive). For slack after from and before to it may
// as well not be there.
type occupancy struct {
	route    string
	from, to time.Time
	slack    time.Duration
}

// occupancies turns duties into the time each vehicle is on each route: every trip,
// stretched to the next trip of the same block where that begins within layover.
// Duties are those of one service date; a block is a vehicle of that date only, and is on a route once,
// however many of its trips are at the same time.
func occupancies(duties []gtfs.Duty, layover time.Duration) []occupancy {
	byVehicle := map[string][]gtfs.Duty{}
	for _, d := range duties {
		byVehicle[d.Vehicle] = append(byVehicle[d.Vehicle], d)
	}
	out := make([]occupancy, 0, len(duties))
	for _, trips := range byVehicle {
		slices.SortFunc(trips, func(a, b gtfs.Duty) int {
			if c := a.From.Compare(b.From); c != 0 {
				return c
			}
			return cmp.Or(a.To.Compare(b.To), cmp.Compare(a.Trip, b.Trip))
		})
		until := map[string]time.Time{} // to when the vehicle is on a route
		for i, d := range trips {
			from, to := d.From, d.To
			if i+1 < len(trips) {
				if gap := trips[i+1].From.Sub(d.To); gap >= 0 && gap <= layover {
					to = trips[i+1].From
				}
			}
			if from.Before(until[d.Route]) {
				from = until[d.Route]
			}
			if to.After(from) {
				out = append(out, occupancy{route: d.Route, from: from, to: to, slack: d.Slack})
				until[d.Route] = to
			}
		}
	}
	return out
}

// level is the number of vehicles on a route from at until the next level: n as scheduled, of which sure are
// there wherever in its slack each is.
type level struct {
	at      time.Time
	n, sure int
}

// levels adds occupancies up to a step function per route, in order of time. Where
// one vehicle leaves and another comes at the same instant they are not both there.
func levels(occ []occupancy) map[string][]level {
	changes := map[string][]level{}
	for _, o := range occ {
		list := append(changes[o.route], level{o.from, 1, 0}, level{o.to, -1, 0})
		if from, to := o.from.Add(o.slack), o.to.Add(-o.slack); from.Before(to) {
			list = append(list, level{from, 0, 1}, level{to, 0, -1})
		}
		changes[o.route] = list
	}
	out := make(map[string][]level, len(changes))
	for route, list := range changes {
		slices.SortFunc(list, func(a, b level) int { return a.at.Compare(b.at) })
		var steps []level
		n, sure := 0, 0
		for i, c := range list {
			n, sure = n+c.n, sure+c.sure
			if i+1 < len(list) && list[i+1].at.Equal(c.at) {
				continue // only the sum of one instant is ever seen
			}
			steps = append(steps, level{c.at, n, sure})
		}
		out[route] = steps
	}
	return out
}

// extremes returns the least number of vehicles that are sure to be there and the greatest that are scheduled
// at once in [from, to).
func extremes(steps []level, from, to time.Time) (lowest, highest int) {
	// i: the first step after from; the one before it is in force at from.
	i, _ := slices.BinarySearchFunc(steps, from, func(l level, at time.Time) int {
		if l.at.After(at) {
			return 1
		}
		return -1
	})
	if i > 0 {
		lowest, highest = steps[i-1].sure, steps[i-1].n
	}
	for ; i < len(steps) && steps[i].at.Before(to); i++ {
		lowest, highest = min(lowest, steps[i].sure), max(highest, steps[i].n)
	}
	return lowest, highest
}

// RouteHour is the greatest number of vehicles at once on a route within one hour of
// the local clock.
type RouteHour struct {
	Date     gtfs.Date
	Route    string
	Hour     int // 0 to 23; on the night the clock goes back, hour 1 or 2 stands for both
	Vehicles int // at least 1
}

// PerHour lists the route-hours of one calendar date in which a vehicle is
// scheduled, by route and hour. The calendar date includes what the service date
// before it runs past 24:00.
func PerHour(feed *gtfs.Feed, date gtfs.Date) []RouteHour {
	steps := calendarLevels(feed, date)
	var rows []RouteHour
	for route, list := range steps {
		for _, h := range hoursOf(date, feed.Location) {
			_, highest := extremes(list, h.from, h.to)
			if highest == 0 {
				continue
			}
			if n := len(rows); n > 0 && rows[n-1].Route == route && rows[n-1].Hour == h.hour {
				rows[n-1].Vehicles = max(rows[n-1].Vehicles, highest)
				continue
			}
			rows = append(rows, RouteHour{Date: date, Route: route, Hour: h.hour, Vehicles: highest})
		}
	}
	slices.SortFunc(rows, func(a, b RouteHour) int {
		return cmp.Or(cmp.Compare(a.Route, b.Route), cmp.Compare(a.Hour, b.Hour))
	})
	return rows
}

// calendarLevels covers what touches one calendar date: its own service, and that of the
// three dates before it as far as it runs past midnight (stop times end below 72:00).
func calendarLevels(feed *gtfs.Feed, date gtfs.Date) map[string][]level {
	midnight := date.Midnight(feed.Location)
	var occ []occupancy
	for back := 3; back >= 0; back-- {
		for _, o := range occupancies(feed.Duties(date.AddDays(-back)), Layover) {
			if o.to.After(midnight) {
				occ = append(occ, o)
			}
		}
	}
	return levels(occ)
}

type localHour struct {
	hour     int
	from, to time.Time
}

// hoursOf lists the 23, 24 or 25 hours of a calendar date.
func hoursOf(date gtfs.Date, loc *time.Location) []localHour {
	end := date.AddDays(1).Midnight(loc)
	var hours []localHour
	for at := date.Midnight(loc); at.Before(end); {
		to := hourStart(at, loc).Add(time.Hour)
		hours = append(hours, localHour{at.In(loc).Hour(), at, to})
		at = to
	}
	return hours
}

// hourStart is the last full hour of the local clock at or before t.
func hourStart(t time.Time, loc *time.Location) time.Time {
	l := t.In(loc)
	return t.Add(-time.Duration(l.Minute())*time.Minute - time.Duration(l.Second())*time.Second - time.Duration(l.Nanosecond()))
}
