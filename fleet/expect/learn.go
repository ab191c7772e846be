package expect

import (
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

// HistoryWindow is the time whose counts BuildHistory learns from: the HistoryDays local dates before the
// date of now.
func HistoryWindow(now time.Time, loc *time.Location) (from, to time.Time) {
	today := gtfs.DateOf(now.In(loc))
	return today.AddDays(-HistoryDays).Midnight(loc), today.Midnight(loc)
}

// BuildHistory learns from hourly counts; those outside HistoryWindow are left alone. Rows
// come in any order, fastest by Start, and are not kept: 3 kB are held for each route. The first error of rows
// ends it.
//
// An hour is evidence if three quarters of it were heard. In a heard hour a route without a row had nothing, once the
// route was seen at all. Days that are not ordinary, and those whose whole network does not look like other days of the
// type, are left out.
func BuildHistory(rows iter.Seq2[counts.HourRow, error], days Days, now time.Time, loc *time.Location) (*History, error) {
	l := &learner{loc: loc, days: days, first: gtfs.DateOf(now.In(loc)).AddDays(-HistoryDays), index: map[string]*route{}}
	for row, err := range rows {
		if err != nil {
			return nil, fmt.Errorf("learn from history: %w", err)
		}
		l.add(row)
	}
	return l.learn(), nil
}

// route is what one route had.
type route struct {
	since int                     // the first day with a row
	peaks [24][HistoryDays]uint16 // 0 where there is no row, else one more than Peak
}

type learner struct {
	loc   *time.Location
	days  Days
	first gtfs.Date
	index map[string]*route
	heard [24][HistoryDays]bool

	// of the last row, since rows of one hour stand together
	start time.Time
	day   int
	hour  int
}

func (l *learner) add(row counts.HourRow) {
	if !row.Start.Equal(l.start) || l.start.IsZero() {
		local := row.Start.In(l.loc)
		l.start, l.day, l.hour = row.Start, gtfs.DateOf(local).Sub(l.first), local.Hour()
	}
	if l.day < 0 || l.day >= HistoryDays || row.Length <= 0 || row.Heard < row.Length-row.Length/4 || row.Peak < 0 {
		return
	}
	r := l.index[row.Route]
	if r == nil {
		r = &route{since: l.day}
		l.index[row.Route] = r
	}
	r.since = min(r.since, l.day)
	l.heard[l.hour][l.day] = true
	// Two rows of the hour that comes twice when the clock goes back are one hour.
	r.peaks[l.hour][l.day] = max(r.peaks[l.hour][l.day], uint16(min(row.Peak, math.MaxUint16-1))+1)
}

func (l *learner) learn() *History {
	h := &History{location: l.loc, days: l.days, first: l.first, routes: make(map[string]*learned, len(l.index))}
	var evidence [dayTypes][]int
	evidence, h.leftOut = l.evidence()
	values := make([]uint16, 0, HistoryDays)
	for name, r := range l.index {
		var of learned
		for kind, days := range evidence {
			expected := 0
			for hour := range 24 {
				values = l.values(values[:0], r, hour, days)
				if len(values) == 0 {
					continue
				}
				slices.Sort(values)
				c := cell{quantile(values, expectedQuantile), quantile(values, lowQuantile), uint8(len(values))}
				of[kind][hour] = c
				if c.days >= MinDays {
					expected += int(c.expected)
				}
			}
			if expected > 0 {
				h.rosters[kind] = append(h.rosters[kind], name)
			}
		}
		h.routes[name] = &of
	}
	for kind := range h.rosters {
		slices.Sort(h.rosters[kind])
	}
	return h
}

// values lists what a route had in an hour on those of days that were heard, since the route was seen.
func (l *learner) values(into []uint16, r *route, hour int, days []int) []uint16 {
	for _, day := range days {
		if day < r.since || !l.heard[hour][day] {
			continue
		}
		into = append(into, max(r.peaks[hour][day], 1)-1)
	}
	return into
}

// quantile is the value with a share q of the others below it, the lower of two. sorted is not empty.
func quantile(sorted []uint16, q float64) uint16 {
	return sorted[int(q*float64(len(sorted)-1))]
}

// evidence lists by type the days to learn from, and those that are left out.
func (l *learner) evidence() (evidence [dayTypes][]int, leftOut []LeftOut) {
	profiles := l.profiles()
	var candidates [dayTypes][]int
	for day := range HistoryDays {
		date := l.first.AddDays(day)
		switch {
		case !l.known(day):
		case l.days.Holidays[date]:
			leftOut = append(leftOut, LeftOut{date, "is a holiday"})
		case !l.days.Ordinary(date):
			leftOut = append(leftOut, LeftOut{date, fmt.Sprintf("is no ordinary %s: it ran as %s", date.Weekday(), l.days.Type(date))})
		default:
			kind := typeOf(date.Weekday())
			candidates[kind] = append(candidates[kind], day)
		}
	}
	for kind, days := range candidates {
		compared := make([]dayProfile, len(days))
		for i, day := range days {
			compared[i] = dayProfile{l.first.AddDays(day).Weekday(), profiles[day]}
		}
		for i, v := range judge(compared) {
			switch v {
			case usable:
				evidence[kind] = append(evidence[kind], days[i])
			case unusual:
				leftOut = append(leftOut, LeftOut{l.first.AddDays(days[i]), fmt.Sprintf("does not look like a %s", DayType(kind))})
			case superseded:
				leftOut = append(leftOut, LeftOut{l.first.AddDays(days[i]), fmt.Sprintf("every %s since a later one is different", DayType(kind))})
			}
		}
	}
	slices.SortFunc(leftOut, func(a, b LeftOut) int { return a.Date.Sub(b.Date) })
	return evidence, leftOut
}

func (l *learner) known(day int) bool {
	for hour := range 24 {
		if l.heard[hour][day] {
			return true
		}
	}
	return false
}

// profiles sums up the routes that were there from the first week with counts on: a new route makes no
// other's day unusual.
func (l *learner) profiles() []profile {
	begin := HistoryDays
	for _, r := range l.index {
		begin = min(begin, r.since)
	}
	profiles := make([]profile, HistoryDays)
	for _, r := range l.index {
		if r.since >= begin+7 {
			continue
		}
		for hour := range r.peaks {
			for day, peak := range r.peaks[hour] {
				profiles[day][hour] += float64(max(peak, 1) - 1)
			}
		}
	}
	for day := range profiles {
		for hour := range 24 {
			if !l.heard[hour][day] {
				profiles[day][hour] = math.NaN()
			}
		}
	}
	return profiles
}
