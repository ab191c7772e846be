// Package expect says how many machines should be online on a route: from a number
// set by hand, else from the timetable, else from history. It decides nothing about
// faults.
package expect

import (
	"slices"
	"sync"
	"time"

	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

// The names of sources, as they stand in topics and exports.
const (
	SourceHand      = "hand"
	SourceTimetable = "timetable"
	SourceHistory   = "history"
	SourceNone      = "none"
)

// DutyChange is how far the real start and end of a duty may lie from the scheduled
// one: within it, the lower of two levels is what may be demanded.
const DutyChange = 10 * time.Minute

// Expectation is what one source says of a route at an instant. All numbers are machines.
type Expectation struct {
	Expected   int    // the most at once in this hour of the local clock
	Now        int    // at this instant; Expected where the source knows hours only
	Lowest     int    // the least at once within DutyChange of this instant
	Source     string // one of the Source constants
	SampleSize int    // days behind the number; 1 for a timetable, 0 for a number set by hand
}

// Source is one way to know. Implementations are safe for concurrent use.
type Source interface {
	// Expect answers for one route; false where the source says nothing of it.
	// "None are expected" is an answer.
	Expect(route string, at time.Time) (Expectation, bool)
	// Routes lists the routes that the source expects on the local date of at, sorted.
	Routes(at time.Time) []string
}

// Chain asks sources in order and takes the first answer.
type Chain []Source

// Expect implements Source. Where nobody answers, the expectation is zero with
// SourceNone.
func (c Chain) Expect(route string, at time.Time) (Expectation, bool) {
	for _, s := range c {
		if e, ok := s.Expect(route, at); ok {
			return e, true
		}
	}
	return Expectation{Source: SourceNone}, false
}

// Routes implements Source with the union of all.
func (c Chain) Routes(at time.Time) []string {
	var all []string
	for _, s := range c {
		all = append(all, s.Routes(at)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Timetable is a Source over a GTFS feed.
type Timetable struct {
	feed *gtfs.Feed

	mu    sync.Mutex
	dates map[gtfs.Date]map[string][]level // few: yesterday, today, tomorrow
}

// NewTimetable wraps a feed.
func NewTimetable(feed *gtfs.Feed) *Timetable {
	return &Timetable{feed: feed, dates: map[gtfs.Date]map[string][]level{}}
}

// cachedDates bounds the timetable's memory; a replay asks for neighbouring dates only.
const cachedDates = 4

func (t *Timetable) levels(date gtfs.Date) map[string][]level {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l, ok := t.dates[date]; ok {
		return l
	}
	if len(t.dates) >= cachedDates {
		clear(t.dates)
	}
	l := calendarLevels(t.feed, date)
	t.dates[date] = l
	return l
}

// Expect implements Source. A timetable answers for every route that the feed has on the
// local date, with zero where no vehicle is scheduled.
func (t *Timetable) Expect(route string, at time.Time) (Expectation, bool) {
	date := gtfs.DateOf(at.In(t.feed.Location))
	steps, ok := t.levels(date)[route]
	if !ok {
		return Expectation{}, false
	}
	from := hourStart(at, t.feed.Location)
	_, highest := extremes(steps, from, from.Add(time.Hour))
	_, now := extremes(steps, at, at.Add(1))
	lowest, _ := extremes(steps, at.Add(-DutyChange), at)
	// What comes after midnight is in the next date's levels, but within ten minutes of
	// it the levels of both dates hold the same trips.
	ahead, _ := extremes(t.levels(gtfs.DateOf(at.Add(DutyChange).In(t.feed.Location)))[route], at, at.Add(DutyChange))
	return Expectation{Expected: highest, Now: now, Lowest: min(lowest, ahead), Source: SourceTimetable, SampleSize: 1}, true
}

// Routes implements Source.
func (t *Timetable) Routes(at time.Time) []string {
	date := gtfs.DateOf(at.In(t.feed.Location))
	end := date.AddDays(1).Midnight(t.feed.Location)
	var routes []string
	for route, steps := range t.levels(date) {
		if _, highest := extremes(steps, date.Midnight(t.feed.Location), end); highest > 0 {
			routes = append(routes, route)
		}
	}
	slices.Sort(routes)
	return routes
}
