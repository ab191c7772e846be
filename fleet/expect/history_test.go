package expect_test

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// hoursBefore gives hourly rows of one route over the window of now: what number says of a date and hour of
// the local clock, no row where that is negative.
func hoursBefore(now time.Time, loc *time.Location, route string, number func(d gtfs.Date, hour int) int) []counts.HourRow {
	from, to := expect.HistoryWindow(now, loc)
	var rows []counts.HourRow
	for at := from; at.Before(to); at = at.Add(time.Hour) {
		local := at.In(loc)
		if n := number(gtfs.DateOf(local), local.Hour()); n >= 0 {
			rows = append(rows, counts.HourRow{Start: at, Length: time.Hour, Heard: time.Hour, Route: route, Peak: n})
		}
	}
	return rows
}

func seq(rows ...[]counts.HourRow) iter.Seq2[counts.HourRow, error] {
	return func(yield func(counts.HourRow, error) bool) {
		for _, list := range rows {
			for _, r := range list {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

func build(t testing.TB, now time.Time, loc *time.Location, days expect.Days, rows ...[]counts.HourRow) *expect.History {
	t.Helper()
	h, err := expect.BuildHistory(seq(rows...), days, now, loc)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// weekly is 6 on workdays from 7 to 9, 3 on Saturdays and 2 on Sundays, 1 in the other hours of the day, 0 at night.
func weekly(d gtfs.Date, hour int) int {
	switch {
	case hour < 5:
		return 0
	case hour < 7 || hour > 9:
		return 1
	case d.Weekday() == time.Saturday:
		return 3
	case d.Weekday() == time.Sunday:
		return 2
	}
	return 6
}

func TestHistoryPerHourAndDayType(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	now := time.Date(2026, 11, 23, 3, 15, 0, 0, berlin) // Monday
	off := date(t, "2026-11-26")
	days := expect.Days{Holidays: map[gtfs.Date]bool{off: true}}
	h := build(t, now, berlin, days, hoursBefore(now, berlin, "A", weekly))
	for at, want := range map[string]expect.Expectation{
		"2026-11-24 08:30": {Expected: 6, Now: 6, Lowest: 6, Low: 6, SampleSize: 40, LowSample: 40},
		"2026-11-24 09:55": {Expected: 6, Now: 6, Lowest: 1, Low: 1, SampleSize: 40, LowSample: 40},
		"2026-11-24 10:05": {Expected: 1, Now: 1, Lowest: 1, Low: 1, SampleSize: 40, LowSample: 40},
		"2026-11-24 03:30": {SampleSize: 40, LowSample: 40}, // none are expected, and that is an answer
		"2026-11-26 08:30": {Expected: 2, Now: 2, Lowest: 2, Low: 2, SampleSize: 8, LowSample: 8},
		"2026-11-28 08:30": {Expected: 3, Now: 3, Lowest: 3, Low: 3, SampleSize: 8, LowSample: 8},
		"2026-11-29 08:30": {Expected: 2, Now: 2, Lowest: 2, Low: 2, SampleSize: 8, LowSample: 8},
	} {
		when, err := time.ParseInLocation("2006-01-02 15:04", at, berlin)
		if err != nil {
			t.Fatal(err)
		}
		want.Source = expect.SourceHistory
		got, ok := h.Expect("A", when)
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("%s: ok=%v %s", at, ok, diff)
		}
	}
	if _, ok := h.Expect("Z", now); ok {
		t.Error("history answers for a route that it never saw")
	}
	if diff := cmp.Diff([]string{"A"}, h.Routes(now)); diff != "" {
		t.Error(diff)
	}
}

func TestHistoryIsRobust(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 15, 0, 0, time.UTC)
	others := hoursBefore(now, time.UTC, "others", func(gtfs.Date, int) int { return 500 }) // so that A alone makes no day unusual
	at := time.Date(2026, 11, 24, 8, 30, 0, 0, time.UTC)
	n := 0
	h := build(t, now, time.UTC, expect.Days{}, others, hoursBefore(now, time.UTC, "A", func(_ gtfs.Date, hour int) int {
		if hour != 8 {
			return 5
		}
		n++
		switch {
		case n%3 == 0: // a third of the days is far too low
			return 1
		case n%7 == 0: // and some far too high
			return 90
		}
		return 10
	}))
	if e, _ := h.Expect("A", at); e.Expected != 10 || e.Low != 1 || e.SampleSize != 40 {
		t.Errorf("%+v", e)
	}
}

func TestWhatIsNoEvidence(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 15, 0, 0, time.UTC)
	at := time.Date(2026, 11, 24, 8, 30, 0, 0, time.UTC)
	every := func(gtfs.Date, int) int { return 9 }
	for name, tc := range map[string]struct {
		number func(gtfs.Date, int) int
		change func(*counts.HourRow)
		want   string // expected, days
	}{
		"little of the hour was heard": {every, func(r *counts.HourRow) {
			if r.Start.Day()%2 == 0 {
				r.Heard, r.Peak = 44*time.Minute, 1
			}
		}, "9 19"},
		"nothing was heard": {every, func(r *counts.HourRow) { r.Heard, r.Peak = 0, 0 }, "- 0"},
		"three days": {func(d gtfs.Date, _ int) int {
			if d.Before(date(t, "2026-11-18")) {
				return -1
			}
			return 9
		}, nil, "- 0"}, // Wednesday to Friday
		"four days": {func(d gtfs.Date, _ int) int {
			if d.Before(date(t, "2026-11-17")) {
				return -1
			}
			return 9
		}, nil, "9 4"},
		"today and older than eight weeks": {every, func(r *counts.HourRow) { r.Start = r.Start.Add(57 * 24 * time.Hour) }, "- 0"},
		"a length that is none":            {every, func(r *counts.HourRow) { r.Length = -r.Length }, "- 0"},
	} {
		rows := hoursBefore(now, time.UTC, "A", tc.number)
		for i := range rows {
			if tc.change != nil {
				tc.change(&rows[i])
			}
		}
		e, ok := build(t, now, time.UTC, expect.Days{}, rows).Expect("A", at)
		got := fmt.Sprint(e.Expected, " ", e.SampleSize)
		if !ok {
			got = "- 0"
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// A route without a row in an hour that was heard had nothing there: one that runs on Fridays only is not expected on all workdays.
func TestAnHourWithoutARowIsNothing(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 15, 0, 0, time.UTC)
	fridays := hoursBefore(now, time.UTC, "F", func(d gtfs.Date, hour int) int {
		if d.Weekday() == time.Friday && hour == 22 {
			return 4
		}
		return -1
	})
	late := hoursBefore(now, time.UTC, "new", func(d gtfs.Date, _ int) int {
		if d.Before(date(t, "2026-11-09")) {
			return -1
		}
		return 7
	})
	h := build(t, now, time.UTC, expect.Days{}, hoursBefore(now, time.UTC, "A", weekly), fridays, late)
	at := time.Date(2026, 11, 24, 22, 30, 0, 0, time.UTC)
	if e, ok := h.Expect("F", at); !ok || e.Expected != 0 || e.Low != 0 || e.LowSample != e.SampleSize || e.SampleSize < 30 {
		t.Errorf("a route of Fridays: %v %+v", ok, e)
	}
	if e, ok := h.Expect("new", at); !ok || e.Expected != 7 || e.SampleSize != 10 {
		t.Errorf("a route of two weeks: %v %+v", ok, e)
	}
}

func TestHistoryLeavesOutDays(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 15, 0, 0, time.UTC)
	strike, holiday := date(t, "2026-11-11"), date(t, "2026-11-12")
	rows := hoursBefore(now, time.UTC, "A", func(d gtfs.Date, hour int) int {
		if d == strike || d == holiday {
			return weekly(d, hour) / 5
		}
		return weekly(d, hour)
	})
	h := build(t, now, time.UTC, expect.Days{Holidays: map[gtfs.Date]bool{holiday: true}}, rows)
	want := []expect.LeftOut{{Date: strike, Reason: "does not look like a workday"}, {Date: holiday, Reason: "is a holiday"}}
	if diff := cmp.Diff(want, h.LeftOut()); diff != "" {
		t.Error(diff)
	}
	if e, _ := h.Expect("A", time.Date(2026, 11, 24, 8, 30, 0, 0, time.UTC)); e.SampleSize != 38 || e.Low != 6 {
		t.Errorf("%+v", e)
	}
}

// On 25 October 2026 Berlin has the hour from 2 to 3 twice, on 29 March none.
func TestHistoryOverNightsWhenTheClockChanges(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	for day, want := range map[string]string{"2026-11-02": "8 8", "2026-04-06": "7 7"} { // eight Sundays; the short one has no hour 2
		d := date(t, day)
		now := time.Date(d.Year, d.Month, d.Day, 3, 15, 0, 0, berlin)
		others := hoursBefore(now, berlin, "others", func(gtfs.Date, int) int { return 100 })
		twice := 0
		rows := hoursBefore(now, berlin, "N", func(on gtfs.Date, hour int) int {
			if hour == 2 && on == date(t, "2026-10-25") {
				twice++
				return twice // 1 in the summer's hour, 2 in the winter's
			}
			return 2
		})
		h := build(t, now, berlin, expect.Days{}, others, rows)
		sunday := now.AddDate(0, 0, 6)
		e, _ := h.Expect("N", time.Date(sunday.Year(), sunday.Month(), sunday.Day(), 2, 30, 0, 0, berlin))
		other, _ := h.Expect("N", time.Date(sunday.Year(), sunday.Month(), sunday.Day(), 4, 30, 0, 0, berlin))
		if got := fmt.Sprint(other.SampleSize, " ", e.SampleSize); e.Expected != 2 || e.Low != 2 || got != strings.Replace(want, "7 7", "8 7", 1) {
			t.Errorf("%s: %+v, days %s", day, e, got)
		}
	}
}

func TestHistoryErrorsAndRows(t *testing.T) {
	broken := errors.New("disk")
	_, err := expect.BuildHistory(func(yield func(counts.HourRow, error) bool) { yield(counts.HourRow{}, broken) }, expect.Days{}, time.Now(), time.UTC)
	if !errors.Is(err, broken) || err.Error() != "learn from history: disk" {
		t.Error(err)
	}
}

// A holiday by the feed: the weekday's service is removed and Sunday's added.
func TestDaysByTheFeed(t *testing.T) {
	const header = "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\n"
	feed, err := gtfs.Read(t.Context(), feedFS(map[string]string{
		"calendar.txt":       header + "W,1,1,1,1,1,0,0,20260901,20261231\nA,0,0,0,0,0,1,0,20260901,20261231\nS,0,0,0,0,0,0,1,20260901,20261231\nX,0,0,0,0,0,0,0,20260901,20261231\n",
		"calendar_dates.txt": "service_id,date,exception_type\nW,20261118,2\nS,20261118,1\nW,20261119,2\nX,20261119,1\nA,20261121,2\nW,20261121,1\n",
		"trips.txt":          "route_id,service_id,trip_id\nR,W,t1\nR,W,t2\nR,W,t3\nR,W,t4\nR,A,t5\nR,A,t6\nR,S,t7\nR,X,t8\n",
		"stop_times.txt":     "trip_id,arrival_time,departure_time\nt1,07:00:00,07:00:00\nt2,07:00:00,07:00:00\nt3,07:00:00,07:00:00\nt4,07:00:00,07:00:00\nt5,07:00:00,07:00:00\nt6,07:00:00,07:00:00\nt7,07:00:00,07:00:00\nt8,07:00:00,07:00:00\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	days := expect.Days{Feed: feed, Holidays: map[gtfs.Date]bool{date(t, "2026-11-17"): true}}
	for day, want := range map[string]string{
		"2026-11-16": "workday true",
		"2026-11-17": "sunday false",  // named
		"2026-11-18": "sunday false",  // by its service
		"2026-11-19": "sunday false",  // a service of its own, as large as that of Sundays
		"2026-11-21": "workday false", // a Saturday with the workday's service
		"2026-11-22": "sunday true",
		"2027-05-01": "saturday true", // not covered
	} {
		d := date(t, day)
		if got := fmt.Sprint(days.Type(d), " ", days.Ordinary(d)); got != want {
			t.Errorf("%s: %s, want %s", day, got, want)
		}
	}
}
