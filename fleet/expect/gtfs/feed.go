// Package gtfs reads from a GTFS Schedule feed what Farebeat needs of it: which
// vehicle is on which route from when to when. Stop positions, shapes and fares
// are not read.
package gtfs

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// Feed is one timetable. It is immutable after Open.
type Feed struct {
	// Location is agency_timezone of the first agency.
	Location *time.Location
	// Warnings lists what was left out of the feed and why, at most 20 lines.
	Warnings []string

	// Info is what feed_info.txt says; zero where there is none.
	Info Info

	services map[string]*service
	ordered  []*service // by service_id
	trips    []trip
	covered  struct {
		first, last Date
		ok          bool
	}
	likes sync.Map // of Date to likeness: what was worked out by Like
}

// Duty is one trip of one vehicle, or what Duties says of a service by headway. From is inclusive, To exclusive.
type Duty struct {
	Vehicle string // block_id, else trip_id: what one vehicle drives in a row
	Route   string // route_id
	Trip    string // trip_id
	From    time.Time
	To      time.Time
	// Slack is 0 but for a service without exact times: for so long after From and before To the vehicle may
	// as well not be there.
	Slack time.Duration
}

type service struct {
	weekdays   [7]bool // by time.Weekday
	start, end Date    // zero where calendar.txt does not name it
	added      map[Date]bool
	removed    map[Date]bool
	trips      int // how many it has
}

func (s *service) runs(d Date) bool {
	if s.removed[d] {
		return false
	}
	return s.added[d] || s.weekdays[d.Weekday()] && !d.Before(s.start) && !s.end.Before(d)
}

type trip struct {
	id, route, block string
	service          *service
	first, last      time.Duration // departure from the first stop, arrival at the last, since ServiceStart
	timed            bool
	frequencies      []frequency
}

// Open reads a feed from a zip file or a folder. Errors of the feed's content are
// *Error and name file, line and column.
func Open(ctx context.Context, name string) (*Feed, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("open GTFS feed: %w", err)
	}
	if info.IsDir() {
		feed, err := Read(ctx, os.DirFS(name))
		if err != nil {
			return nil, fmt.Errorf("GTFS feed %s: %w", name, err)
		}
		return feed, nil
	}
	archive, err := zip.OpenReader(name)
	if err != nil {
		return nil, fmt.Errorf("open GTFS feed %s: %w: a feed is a zip file or a folder with stop_times.txt", name, err)
	}
	defer archive.Close()
	feed, err := Read(ctx, archive)
	if err != nil {
		return nil, fmt.Errorf("GTFS feed %s: %w", name, err)
	}
	return feed, nil
}

// Read reads a feed from a file system that holds its files, at the root or in one
// folder (as some agencies zip them).
func Read(ctx context.Context, fsys fs.FS) (*Feed, error) {
	root, err := findRoot(fsys)
	if err != nil {
		return nil, err
	}
	l := &loader{ctx: ctx, fsys: fsys, root: root, feed: &Feed{services: map[string]*service{}}, byID: map[string]int{}}
	for _, step := range []func() error{l.agency, l.calendar, l.calendarDates, l.trips, l.stopTimes, l.frequencies, l.feedInfo} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	l.dropUntimed()
	l.feed.finish()
	return l.feed, nil
}

// finish works out what does not change any more.
func (f *Feed) finish() {
	for i := range f.trips {
		t := &f.trips[i]
		t.service.trips++
		t.last = max(t.first, t.last) // of a single stop, which is left after it was reached
	}
	for _, id := range slices.Sorted(maps.Keys(f.services)) {
		f.ordered = append(f.ordered, f.services[id])
	}
	f.covered.first, f.covered.last, f.covered.ok = f.dates()
}

func findRoot(fsys fs.FS) (string, error) {
	if _, err := fs.Stat(fsys, "stop_times.txt"); err == nil {
		return ".", nil
	}
	matches, err := fs.Glob(fsys, "*/stop_times.txt")
	if err != nil || len(matches) != 1 {
		return "", &Error{File: "stop_times.txt", Problem: "is missing: this is no GTFS feed"}
	}
	return path.Dir(matches[0]), nil
}

// Duties lists what runs on one service date, by vehicle and time. Times past
// 24:00 reach into the next calendar day. What a trip with frequencies becomes is
// said at frequency.duties.
func (f *Feed) Duties(d Date) []Duty {
	origin := d.ServiceStart(f.Location)
	var duties []Duty
	for i := range f.trips {
		t := &f.trips[i]
		if !t.service.runs(d) {
			continue
		}
		if len(t.frequencies) == 0 {
			duties = append(duties, Duty{Vehicle: t.vehicle(), Route: t.route, Trip: t.id, From: origin.Add(t.first), To: origin.Add(t.last)})
			continue
		}
		for _, fr := range t.frequencies {
			duties = fr.duties(duties, t, origin)
		}
	}
	slices.SortFunc(duties, func(a, b Duty) int {
		if c := strings.Compare(a.Vehicle, b.Vehicle); c != 0 {
			return c
		}
		if c := a.From.Compare(b.From); c != 0 {
			return c
		}
		return strings.Compare(a.Trip, b.Trip)
	})
	return duties
}

func (t *trip) vehicle() string {
	if t.block != "" {
		return t.block
	}
	return t.id
}

// Routes lists every route_id that a trip names, sorted.
func (f *Feed) Routes() []string {
	seen := map[string]bool{}
	for i := range f.trips {
		seen[f.trips[i].route] = true
	}
	routes := make([]string, 0, len(seen))
	for r := range seen {
		routes = append(routes, r)
	}
	sort.Strings(routes)
	return routes
}

// loader reads the files in the order in which they refer to each other.
type loader struct {
	ctx  context.Context
	fsys fs.FS
	root string
	feed *Feed
	byID map[string]int // trip_id to index in feed.trips
}

const maxWarnings = 20

func (l *loader) warn(format string, args ...any) {
	if len(l.feed.Warnings) < maxWarnings {
		l.feed.Warnings = append(l.feed.Warnings, fmt.Sprintf(format, args...))
	}
}

// each calls row for every record of a file. An absent optional file has none.
func (l *loader) each(file string, optional bool, required []string, row func(*table) error) error {
	f, err := l.fsys.Open(path.Join(l.root, file))
	if errors.Is(err, fs.ErrNotExist) {
		if optional {
			return nil
		}
		return &Error{File: file, Problem: "is missing from the feed"}
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	defer f.Close()
	return eachRow(l.ctx, file, f, required, row)
}

func eachRow(ctx context.Context, file string, r io.Reader, required []string, row func(*table) error) error {
	t, err := newTable(file, r, required...)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return fmt.Errorf("read %s: %w", file, ctx.Err())
		}
		ok, err := t.next()
		if err != nil || !ok {
			return err
		}
		if err := row(t); err != nil {
			return err
		}
	}
}

func (l *loader) agency() error {
	err := l.each("agency.txt", false, []string{"agency_timezone"}, func(t *table) error {
		if l.feed.Location != nil {
			return nil
		}
		name, err := t.need("agency_timezone")
		if err != nil {
			return err
		}
		loc, err := time.LoadLocation(name)
		if err != nil {
			return t.bad("agency_timezone", fmt.Sprintf("%q: not a time zone of the IANA database", name))
		}
		l.feed.Location = loc
		return nil
	})
	if err == nil && l.feed.Location == nil {
		return &Error{File: "agency.txt", Problem: "names no agency"}
	}
	return err
}

func (l *loader) calendar() error {
	days := [7]string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}
	required := append([]string{"service_id", "start_date", "end_date"}, days[:]...)
	return l.each("calendar.txt", true, required, func(t *table) error {
		id, err := t.need("service_id")
		if err != nil {
			return err
		}
		if l.feed.services[id] != nil {
			return t.bad("service_id", fmt.Sprintf("%q: given twice", id))
		}
		s := newService()
		for i, day := range days {
			switch v := t.get(day); v {
			case "1":
				s.weekdays[i] = true
			case "0":
			default:
				return t.bad(day, fmt.Sprintf("%q: want 0 or 1", v))
			}
		}
		if s.start, err = t.date("start_date"); err != nil {
			return err
		}
		if s.end, err = t.date("end_date"); err != nil {
			return err
		}
		if s.end.Before(s.start) {
			return t.bad("end_date", fmt.Sprintf("%s is before start_date %s", s.end, s.start))
		}
		l.feed.services[id] = s
		return nil
	})
}

func newService() *service {
	return &service{added: map[Date]bool{}, removed: map[Date]bool{}}
}

func (t *table) date(column string) (Date, error) {
	v := t.get(column)
	d, err := ParseDate(v)
	if err != nil || len(v) != 8 {
		return Date{}, t.bad(column, fmt.Sprintf("%q: want YYYYMMDD", v))
	}
	return d, nil
}

func (l *loader) calendarDates() error {
	err := l.each("calendar_dates.txt", true, []string{"service_id", "date", "exception_type"}, func(t *table) error {
		id, err := t.need("service_id")
		if err != nil {
			return err
		}
		d, err := t.date("date")
		if err != nil {
			return err
		}
		s := l.feed.services[id]
		if s == nil { // a service may be given by its dates alone
			s = newService()
			l.feed.services[id] = s
		}
		switch v := t.get("exception_type"); v {
		case "1":
			s.added[d] = true
		case "2":
			s.removed[d] = true
		default:
			return t.bad("exception_type", fmt.Sprintf("%q: want 1 (added) or 2 (removed)", v))
		}
		return nil
	})
	if err == nil && len(l.feed.services) == 0 {
		return &Error{File: "calendar.txt", Problem: "and calendar_dates.txt name no service: at least one of them is required"}
	}
	return err
}

func (l *loader) trips() error {
	return l.each("trips.txt", false, []string{"route_id", "service_id", "trip_id"}, func(t *table) error {
		route, err := t.need("route_id")
		if err != nil {
			return err
		}
		id, err := t.need("trip_id")
		if err != nil {
			return err
		}
		if _, twice := l.byID[id]; twice {
			return t.bad("trip_id", fmt.Sprintf("%q: given twice", id))
		}
		s := l.feed.services[t.get("service_id")]
		if s == nil {
			return t.bad("service_id", fmt.Sprintf("%q: in neither calendar.txt nor calendar_dates.txt", t.get("service_id")))
		}
		l.byID[id] = len(l.feed.trips)
		l.feed.trips = append(l.feed.trips, trip{id: id, route: route, block: t.get("block_id"), service: s})
		return nil
	})
}

func (l *loader) stopTimes() error {
	last := -1 // rows of one trip stand together in practice: saves the map
	return l.each("stop_times.txt", false, []string{"trip_id", "arrival_time", "departure_time"}, func(t *table) error {
		id := t.get("trip_id")
		if last < 0 || l.feed.trips[last].id != id {
			i, ok := l.byID[id]
			if !ok {
				return t.bad("trip_id", fmt.Sprintf("%q: not in trips.txt", id))
			}
			last = i
		}
		arrival, departure, err := t.stopTime()
		if err != nil || arrival < 0 {
			return err // stops between timepoints may be untimed
		}
		tr := &l.feed.trips[last]
		if !tr.timed {
			tr.first, tr.last, tr.timed = departure, arrival, true
		}
		tr.first, tr.last = min(tr.first, departure), max(tr.last, arrival)
		return nil
	})
}

// stopTime reads both times of a stop; -1 where the stop has none. One of the two may
// stand for both.
func (t *table) stopTime() (arrival, departure time.Duration, err error) {
	a, d := t.get("arrival_time"), t.get("departure_time")
	if a == "" && d == "" {
		return -1, -1, nil
	}
	if a == "" {
		a = d
	}
	if d == "" {
		d = a
	}
	if arrival, err = parseTime(a); err != nil {
		return 0, 0, t.bad("arrival_time", err.Error())
	}
	if departure = arrival; d != a {
		if departure, err = parseTime(d); err != nil {
			return 0, 0, t.bad("departure_time", err.Error())
		}
	}
	if departure < arrival {
		return 0, 0, t.bad("departure_time", fmt.Sprintf("%q is before arrival_time %q", d, a))
	}
	return arrival, departure, nil
}

func (l *loader) dropUntimed() {
	l.feed.trips = slices.DeleteFunc(l.feed.trips, func(t trip) bool {
		if !t.timed {
			l.warn("trips.txt: trip_id %q has no stop times and is left out", t.id)
		}
		return !t.timed
	})
}
