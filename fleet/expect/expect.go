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
	Exact      bool   // Now and Lowest are of the minute; else the source knows hours only
	Source     string // one of the Source constants
	SampleSize int    // days behind the number; 1 for a timetable, 0 for a number set by hand

	// Low is what the route reached on all but about a tenth of past days: the low quantile of the most at once in this
	// hour of the clock, and the lower of two hours within DutyChange of the change between them. It is measured, so that
	// vehicles without a machine and machines that are often away are in it already. 0 where it is not known.
	Low int
	// LowSample is how many days are behind Low. Above 0 with a Low of 0, nothing at all was there on such days.
	LowSample int
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

// Expect implements Source. An answer that knows no Low gets that of the first source behind
// it that does. Where nobody answers, the expectation is zero with SourceNone.
func (c Chain) Expect(route string, at time.Time) (Expectation, bool) {
	for i, s := range c {
		e, ok := s.Expect(route, at)
		if !ok {
			continue
		}
		for _, behind := range c[i+1:] {
			if e.LowSample > 0 {
				break
			}
			if learned, ok := behind.Expect(route, at); ok {
				e.Low, e.LowSample = learned.Low, learned.LowSample
			}
		}
		return e, true
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
	feed   *gtfs.Feed
	routes map[string]bool // of the feed, whatever the date

	mu    sync.Mutex
	dates map[gtfs.Date]map[string][]level // few: yesterday, today, tomorrow
}

// NewTimetable wraps a feed.
func NewTimetable(feed *gtfs.Feed) *Timetable {
	t := &Timetable{feed: feed, routes: map[string]bool{}, dates: map[gtfs.Date]map[string][]level{}}
	for _, route := range feed.Routes() {
		t.routes[route] = true
	}
	return t
}

// Feed is what the timetable was made from.
func (t *Timetable) Feed() *gtfs.Feed { return t.feed }

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

// Expect implements Source. A timetable answers for every route of the feed on the local dates that the
// feed covers, with zero where no vehicle is scheduled. Of other dates it says nothing: a
// feed that has expired does not expect an empty city.
func (t *Timetable) Expect(route string, at time.Time) (Expectation, bool) {
	date := gtfs.DateOf(at.In(t.feed.Location))
	if !t.routes[route] || !t.feed.Covers(date) {
		return Expectation{}, false
	}
	steps := t.levels(date)[route]
	from := hourStart(at, t.feed.Location)
	_, highest := extremes(steps, from, from.Add(time.Hour))
	_, now := extremes(steps, at, at.Add(1))
	lowest, _ := extremes(steps, at.Add(-DutyChange), at)
	// What comes after midnight is in the next date's levels, but within ten minutes of
	// it the levels of both dates hold the same trips.
	ahead, _ := extremes(t.levels(gtfs.DateOf(at.Add(DutyChange).In(t.feed.Location)))[route], at, at.Add(DutyChange))
	return Expectation{Expected: highest, Now: now, Lowest: min(lowest, ahead), Exact: true, Source: SourceTimetable, SampleSize: 1}, true
}

// Routes implements Source.
func (t *Timetable) Routes(at time.Time) []string {
	date := gtfs.DateOf(at.In(t.feed.Location))
	if !t.feed.Covers(date) {
		return nil
	}
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
